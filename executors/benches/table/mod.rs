//! Prints measured values beside the bounds that they must keep.

use std::process::ExitCode;

/// Prints rows of a name, a measured value and its bound, and returns a failure if a value is above its bound.
pub(crate) fn print_table(rows: impl IntoIterator<Item = (String, f64, f64)>) -> ExitCode {
    let mut kept = true;
    println!("{:<60} {:>9} {:>7}", "", "measured", "bound");
    for (name, measured, bound) in rows {
        kept &= measured <= bound;
        println!("{name:<60} {measured:>9.2} {bound:>7.2}");
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
