//! Pictures in memory, and the files they come from and go to.

use std::fmt;
use std::io::Cursor;

use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The longest edge of a photograph or a result, in pixels.
pub const MAX_EDGE: u32 = 4096;

/// The most pixels of a result; the sandbox has to hold it beside the photograph.
pub const MAX_OUTPUT_PIXELS: u64 = 4 << 20;

/// Rows of red, green and blue bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// In pixels, at least 1.
    pub width: u32,
    /// In pixels, at least 1.
    pub height: u32,
    /// Three bytes a pixel, row by row from the top.
    pub rgb: Vec<u8>,
}

/// What is wrong with a photograph or with the size asked for.
#[derive(Debug)]
pub enum PictureError {
    /// Neither JPEG nor PNG, or a broken one.
    Unreadable(String),
    /// More than [`MAX_EDGE`] or [`MAX_OUTPUT_PIXELS`], or nothing at all.
    Size(String),
}

impl PictureError {
    /// A word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable-image",
            Self::Size(_) => "invalid-size",
        }
    }
}

impl fmt::Display for PictureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(text) | Self::Size(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for PictureError {}

impl Picture {
    /// Reads a JPEG or PNG file of at most [`MAX_EDGE`] by [`MAX_EDGE`] pixels.
    pub fn decode(file: &[u8]) -> Result<Self, PictureError> {
        match file {
            [0xff, 0xd8, ..] => Self::decode_jpeg(file),
            [0x89, b'P', b'N', b'G', ..] => Self::decode_png(file),
            _ => Err(PictureError::Unreadable("image is neither JPEG nor PNG".to_owned())),
        }
    }

    fn decode_jpeg(file: &[u8]) -> Result<Self, PictureError> {
        let unreadable = |error: zune_jpeg::errors::DecodeErrors| {
            PictureError::Unreadable(format!("JPEG: {error}"))
        };
        let options = DecoderOptions::default()
            .set_max_width(MAX_EDGE as usize)
            .set_max_height(MAX_EDGE as usize)
            .set_strict_mode(true)
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(file), options);
        let rgb = decoder.decode().map_err(unreadable)?;
        let (width, height) = decoder
            .dimensions()
            .ok_or_else(|| PictureError::Unreadable("JPEG: no size".to_owned()))?;
        let edge = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Self::checked(edge(width), edge(height), rgb)
    }

    fn decode_png(file: &[u8]) -> Result<Self, PictureError> {
        let unreadable =
            |error: png::DecodingError| PictureError::Unreadable(format!("PNG: {error}"));
        let mut decoder = png::Decoder::new(Cursor::new(file));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(unreadable)?;
        let (width, height) = reader.info().size();
        within_edge(width, height)?;
        let size = reader
            .output_buffer_size()
            .ok_or_else(|| PictureError::Size("image is too large".to_owned()))?;
        let mut bytes = vec![0; size];
        let frame = reader.next_frame(&mut bytes).map_err(unreadable)?;
        bytes.truncate(frame.buffer_size());
        let rgb = match frame.color_type {
            png::ColorType::Rgb => bytes,
            png::ColorType::Rgba => {
                bytes.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
            }
            png::ColorType::Grayscale => bytes.iter().flat_map(|grey| [*grey; 3]).collect(),
            png::ColorType::GrayscaleAlpha => {
                bytes.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect()
            }
            png::ColorType::Indexed => {
                return Err(PictureError::Unreadable("PNG: no palette".to_owned()));
            }
        };
        Self::checked(width, height, rgb)
    }

    fn checked(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, PictureError> {
        within_edge(width, height)?;
        if rgb.len() != width as usize * height as usize * 3 {
            return Err(PictureError::Unreadable("image has fewer pixels than it says".to_owned()));
        }
        Ok(Self { width, height, rgb })
    }

    /// An empty picture of the wanted size; the height follows this picture's proportions unless given.
    pub(crate) fn canvas(&self, width: u32, height: Option<u32>) -> Result<Self, PictureError> {
        let height = height.unwrap_or_else(|| {
            let twice = 2 * u64::from(width) * u64::from(self.height) / u64::from(self.width);
            u32::try_from(twice.div_ceil(2)).unwrap_or(u32::MAX).max(1)
        });
        within_edge(width, height)?;
        if u64::from(width) * u64::from(height) > MAX_OUTPUT_PIXELS {
            return Err(PictureError::Size(format!(
                "{width} by {height} is more than {MAX_OUTPUT_PIXELS} pixels"
            )));
        }
        Ok(Self { width, height, rgb: vec![0; width as usize * height as usize * 3] })
    }

    pub(crate) fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let at = self.at(x, y);
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }

    pub(crate) fn set_pixel(&mut self, x: u32, y: u32, pixel: [u8; 3]) {
        let at = self.at(x, y);
        self.rgb[at..at + 3].copy_from_slice(&pixel);
    }

    fn at(&self, x: u32, y: u32) -> usize {
        (y as usize * self.width as usize + x as usize) * 3
    }

    /// Writes a PNG file.
    pub fn encode_png(&self) -> Result<Vec<u8>, PictureError> {
        let failed = |error: png::EncodingError| PictureError::Unreadable(format!("PNG: {error}"));
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&self.rgb).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(file)
    }
}

fn within_edge(width: u32, height: u32) -> Result<(), PictureError> {
    if width == 0 || height == 0 || width > MAX_EDGE || height > MAX_EDGE {
        return Err(PictureError::Size(format!(
            "{width} by {height} pixels: an edge is from 1 to {MAX_EDGE}"
        )));
    }
    Ok(())
}
