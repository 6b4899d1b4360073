//! Records and sets of them.

/// A record, by its name: the same in outbox, log and consumer, for ever.
pub type Name = u8;

/// A set of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Names(pub u8);

impl Names {
    /// No record.
    pub const NONE: Self = Self(0);

    /// The set of one.
    pub fn one(name: Name) -> Self {
        Self(1 << name)
    }

    /// Whether `name` is one of them.
    pub fn has(self, name: Name) -> bool {
        self.0 & (1 << name) != 0
    }

    /// Those in either.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those in both.
    pub fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those not in `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Name> {
        (0..8).filter(move |name| self.has(*name))
    }
}

impl FromIterator<Name> for Names {
    fn from_iter<I: IntoIterator<Item = Name>>(names: I) -> Self {
        names.into_iter().fold(Self::NONE, |set, name| set.and(Self::one(name)))
    }
}
