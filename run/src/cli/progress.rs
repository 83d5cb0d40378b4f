//! What a user watches while a run goes on: the output of rank 0, and its steps as a bar.

use neva_track::Console;

/// Takes the output of rank 0 and shows it on standard output.
pub(super) fn bar() -> Box<dyn FnMut(&[u8]) + Send> {
    let mut console = Console::stdout();
    Box::new(move |bytes| console.write(bytes))
}
