//! Why offsets of a log are gone.

/// Why offsets of a log are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// Retention has removed them.
    Retention,
    /// The log's file is damaged there.
    Damaged,
    /// Whoever may has had them erased.
    Erased,
}

impl GapCause {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Retention, Self::Damaged, Self::Erased];

    /// The cause as a notice names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Damaged => "damaged",
            Self::Erased => "erased",
        }
    }

    /// The cause of this name; `None`: a later version has others.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }
}
