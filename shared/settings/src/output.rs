//! Lines on standard output, for whoever started the program. They may stop reading at any time, as `… | head` does.

use std::{
    fmt,
    io::{self, Write as _},
};

/// Writes a line, as `println!` does, but panics for nobody: where it cannot be written the caller ends what it does.
pub fn say(line: impl fmt::Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Whether the error says that nobody reads the output any more, which is no failure of the program's.
pub fn is_unread(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}
