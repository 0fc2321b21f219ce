//! `alluvium salvage`: a new data directory from what is left of a damaged one.

use std::sync::Arc;

use alluvium_io::SystemClock;
use alluvium_store::salvage;

use crate::args::{SalvageArgs, ServeFlags};
use crate::backup::{device, existing};
use crate::error::CliError;
use crate::serve::say;
use crate::settings;

pub(crate) fn run(args: &SalvageArgs) -> Result<(), CliError> {
    let config = settings::config(&args.target, &ServeFlags::default())?.store;
    let source = existing(&args.dir, 1)?;
    let target = device(&args.target, config.shards + 1)?;
    let saved = salvage(&source, &target, Arc::new(SystemClock), config);
    let r = saved.map_err(|error| CliError::said(error.to_string()))?;
    for file in &r.bad_files {
        say(&format!("not used: {file}"));
    }
    say(&format!(
        "salvaged {} points of {} series to {}, from {} leaves and {} log frames",
        r.points,
        r.series,
        args.target.display(),
        r.leaves,
        r.frames
    ));
    if r.pages_mended > 0 {
        say(&format!("made again: {} pages of tails", r.pages_mended));
    }
    say(&format!(
        "not there: {} damaged pages, {} ordinals of leaves, {} numbers of frames, {} long strings, the names of {} series and {} \
         databases; what had been deleted may be back",
        r.damaged_pages,
        r.missing_leaves,
        r.missing_frames,
        r.lost_texts,
        r.unnamed_series,
        r.unnamed_databases
    ));
    Ok(())
}
