//! The compact form of records: what repeats from record to record is sent once.
//!
//! A **template** is the text of a JSON record cut into literal parts and slots. The sender announces a template on the control
//! stream; once the server has accepted it, a record of that template is sent as the values of its slots. Nothing but the
//! templates is remembered between records, so that any of them may be lost, repeated or reordered. A template holds for one
//! connection.
//!
//! The server restores **the very same bytes**: the encoder expands each record that it made and sends the plain record
//! where that does not give back what went in.
//!
//! | slot | what it holds | how |
//! |---|---|---|
//! | [`Slot::Number`] | a JSON number | its digits as one integer, at the slot's number of decimals |
//! | [`Slot::Time`] | an RFC 3339 time in quotes | the difference to the template's base, in units of its last digit |
//! | [`Slot::Text`] | what stands between two quotes | as it is |
//! | [`Slot::Raw`] | any other value | as it is |
//!
//! A number or time of another form than its slot's is sent as it is, behind a zero.

mod decoder;
mod encoder;
mod number;
mod template;
mod timestamp;
mod tokens;

pub use decoder::{Decoder, Error};
pub use encoder::{Encoded, Encoder};
pub use template::{Compact, Slot, Template, TemplateAccepted};

/// Most templates of one connection.
pub const MAX_TEMPLATES: usize = 64;
/// Most slots of one template.
pub const MAX_SLOTS: usize = 256;
/// Most bytes of a template's literal parts together.
pub const MAX_LITERALS: usize = 4096;

#[cfg(test)]
pub(super) mod goldens;
#[cfg(test)]
mod tests;
