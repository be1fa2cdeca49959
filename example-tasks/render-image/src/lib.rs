//! The task `render-image`: resizes a photograph (JPEG or PNG) tile by tile and returns a PNG.
//!
//! [`render`] is the whole work as a plain function. All of it is integer arithmetic, so the picture has the same bytes
//! natively and in the sandbox.

mod area;
mod picture;

use base64::Engine as _;
use serde::Deserialize;
use stem_guest::{Binary, Context, TaskError};

pub use picture::{MAX_EDGE, MAX_OUTPUT_PIXELS, Picture, PictureError};

/// What to make of the photograph.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Width of the result in pixels.
    pub width: u32,
    /// Height of the result; by default the one that keeps the photograph's proportions.
    pub height: Option<u32>,
    /// Edge of a tile in pixels.
    pub tile: u32,
}

/// Edge of a tile when nobody asks for another.
pub const DEFAULT_TILE: u32 = 64;

/// Why there is no picture.
#[derive(Debug)]
pub enum RenderError<E> {
    /// The photograph or the wanted size will not do.
    Picture(PictureError),
    /// The callback ended the work.
    Stopped(E),
}

/// Resizes the photograph in `file` and returns a PNG file. `tile_done` is called with the number of tiles done and the
/// number of all after each of them, and ends the work by an error.
pub fn render<E>(
    file: &[u8],
    wanted: &Wanted,
    mut tile_done: impl FnMut(usize, usize) -> Result<(), E>,
) -> Result<Vec<u8>, RenderError<E>> {
    let photo = Picture::decode(file).map_err(RenderError::Picture)?;
    let mut canvas = photo.canvas(wanted.width, wanted.height).map_err(RenderError::Picture)?;
    let tiles = area::tiles(canvas.width, canvas.height, wanted.tile.max(1));
    for (index, tile) in tiles.iter().enumerate() {
        area::render_tile(&photo, &mut canvas, *tile);
        tile_done(index + 1, tiles.len()).map_err(RenderError::Stopped)?;
    }
    canvas.encode_png().map_err(RenderError::Picture)
}

/// The task's arguments.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// A JPEG or PNG file in Base64.
    image: String,
    width: u32,
    height: Option<u32>,
    #[serde(default = "default_tile")]
    tile: u32,
}

fn default_tile() -> u32 {
    DEFAULT_TILE
}

/// The task. A heartbeat before the work and progress after each tile.
#[stem_guest::task]
pub fn render_image(ctx: &Context, args: Args) -> Result<Binary, TaskError> {
    let file = base64::prelude::BASE64_STANDARD.decode(args.image.as_bytes()).map_err(|error| {
        TaskError::fatal("invalid-arguments", format!("image is not Base64: {error}"))
    })?;
    drop(args.image);
    ctx.heartbeat()?;
    let wanted = Wanted { width: args.width, height: args.height, tile: args.tile };
    #[expect(clippy::cast_precision_loss, reason = "there are fewer tiles than an f64 counts")]
    let tile_done = |done: usize, all: usize| {
        ctx.progress(done as f64 / all as f64, format!("tile {done} of {all}"))
    };
    let png = render(&file, &wanted, tile_done).map_err(|error| match error {
        RenderError::Picture(error) => TaskError::fatal(error.code(), error.to_string()),
        RenderError::Stopped(error) => error,
    })?;
    stem_guest::info!(ctx, "rendered"; width = args.width, bytes_in = file.len(), bytes_out = png.len());
    Ok(Binary::new("image/png", png))
}
