//! Rows as structs, in both databases.

/// Declares a struct and reads each field from the column of its name, and a field behind `..` from the row as a whole. sqlx's own derive
/// would build sqlx, both of its drivers and TLS once more, for the machine that compiles.
macro_rules! row {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident {
        $(..$part:ident: $inner:ty,)?
        $($(#[$documentation:meta])* $field:ident: $type:ty,)*
    }) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($part: $inner,)?
            $($(#[$documentation])* $field: $type,)*
        }

        impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for $name
        where
            &'static str: sqlx::ColumnIndex<R>,
            $($inner: sqlx::FromRow<'r, R>,)?
            $($type: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,)*
        {
            fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
                Ok(Self {
                    $($part: sqlx::FromRow::from_row(row)?,)?
                    $($field: sqlx::Row::try_get(row, stringify!($field))?,)*
                })
            }
        }
    };
}

pub(super) use row;
