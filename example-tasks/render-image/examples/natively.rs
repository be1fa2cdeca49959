//! The task's work without a worker, to compare with: `natively <photo> <width> <picture.png>`.

use std::process::ExitCode;

use render_image::{DEFAULT_TILE, Wanted, render};

fn run(arguments: &[String]) -> Result<(), String> {
    let [photo, width, picture] = arguments else {
        return Err("usage: natively <photo> <width> <picture.png>".to_owned());
    };
    let file = std::fs::read(photo).map_err(|error| format!("{photo}: {error}"))?;
    let width = width.parse().map_err(|error| format!("width {width}: {error}"))?;
    let wanted = Wanted { width, height: None, tile: DEFAULT_TILE };
    let png = render(&file, &wanted, |_, _| Ok::<(), ()>(()))
        .map_err(|error| format!("{photo}: {error:?}"))?;
    std::fs::write(picture, png).map_err(|error| format!("{picture}: {error}"))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
