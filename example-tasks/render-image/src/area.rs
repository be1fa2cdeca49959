//! Resizing by area: a pixel of the result is the mean of the source pixels it covers, each weighted by how much of it is
//! covered.
//!
//! Along one axis, with lengths measured in units of 1/(source × result) of the picture, a source pixel is `result` units
//! long and a result pixel `source` units: every overlap is a whole number and no rounding happens before the last division.

use crate::picture::Picture;

/// A rectangle of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) left: u32,
    pub(crate) top: u32,
    pub(crate) right: u32,
    pub(crate) bottom: u32,
}

/// Covers the result row by row; the last of each row and column may be smaller.
pub(crate) fn tiles(width: u32, height: u32, edge: u32) -> Vec<Tile> {
    let starts = |length: u32| (0..length.div_ceil(edge)).map(move |index| index * edge);
    let end = |start: u32, length: u32| start.saturating_add(edge).min(length);
    starts(height)
        .flat_map(|top| {
            starts(width).map(move |left| Tile {
                left,
                top,
                right: end(left, width),
                bottom: end(top, height),
            })
        })
        .collect()
}

pub(crate) fn render_tile(photo: &Picture, canvas: &mut Picture, tile: Tile) {
    let total = u64::from(photo.width) * u64::from(photo.height);
    let columns: Vec<Span> =
        (tile.left..tile.right).map(|x| span(x, photo.width, canvas.width)).collect();
    for y in tile.top..tile.bottom {
        let rows = span(y, photo.height, canvas.height);
        for (x, columns) in (tile.left..tile.right).zip(&columns) {
            let mut sums = [total / 2; 3];
            for (row, row_weight) in rows.weights() {
                for (column, column_weight) in columns.weights() {
                    let weight = row_weight * column_weight;
                    for (sum, channel) in sums.iter_mut().zip(photo.pixel(column, row)) {
                        *sum += weight * u64::from(channel);
                    }
                }
            }
            let mean = |sum: u64| u8::try_from(sum / total).unwrap_or(u8::MAX);
            canvas.set_pixel(x, y, sums.map(mean));
        }
    }
}

/// The source pixels under one result pixel, along one axis.
struct Span {
    first: u32,
    end: u32,
    /// Where the result pixel starts and ends, in units.
    from: u64,
    to: u64,
    /// How long a source pixel is.
    unit: u64,
}

fn span(index: u32, source: u32, result: u32) -> Span {
    let (source, unit) = (u64::from(source), u64::from(result));
    let from = u64::from(index) * source;
    let to = from + source;
    let pixel = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
    Span { first: pixel(from / unit), end: pixel(to.div_ceil(unit)), from, to, unit }
}

impl Span {
    fn weights(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (self.first..self.end).map(|pixel| {
            let start = u64::from(pixel) * self.unit;
            (pixel, (start + self.unit).min(self.to) - start.max(self.from))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_each_pixel_once() {
        for (width, height, edge) in
            [(1, 1, 64), (100, 70, 32), (64, 64, 64), (65, 63, 64), (3, 5, 1)]
        {
            let mut seen = vec![0; (width * height) as usize];
            for tile in tiles(width, height, edge) {
                for y in tile.top..tile.bottom {
                    for x in tile.left..tile.right {
                        seen[(y * width + x) as usize] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|count| *count == 1), "{width}x{height} by {edge}");
        }
    }

    #[test]
    fn the_weights_of_a_span_add_up_to_its_length() {
        for (source, result) in [(600, 256), (256, 600), (7, 7), (1, 9), (9, 1), (4096, 4095)] {
            for index in 0..result {
                let weights: u64 =
                    span(index, source, result).weights().map(|(_, weight)| weight).sum();
                assert_eq!(weights, u64::from(source), "pixel {index} of {source} to {result}");
            }
        }
    }
}
