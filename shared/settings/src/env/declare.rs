//! The macro that makes structs of declared settings.

/// Declares settings, each as `NAME = "default" => field: Type;` below its description:
///
/// - `NAME = "default", production "other"`: production nodes have another default.
/// - `NAME => field: Option<Type>`: no default; `NAME, example "text"` shows a value nevertheless.
/// - `Type as Size`: a number of bytes, which may have a unit.
/// - `, > 0` or `, "least"..="most"` behind the type: which values are good.
/// - `with { field: Group }` behind the struct's body: fields that are groups of their own.
///
/// The type of a field is a `Value`. The struct has [`Default`], `from_env`, and `Group`.
#[macro_export]
macro_rules! settings {
    (@option) => { None };
    (@option $value:literal) => { Some($value) };
    (@check) => { $crate::env::Check::Any };
    (@check > $zero:literal) => { $crate::env::Check::AboveZero };
    (@check $least:literal $most:literal) => { $crate::env::Check::Range($least, $most) };
    (@type $type:ty) => { $type };
    (@type $type:ty, $unit:ident) => { $crate::env::$unit<$type> };
    (@plain $value:expr) => { $value };
    (@plain $value:expr, $unit:ident) => { $value.0 };
    (
        $(#[$attribute:meta])*
        $vis:vis struct $group:ident {
            $(
                $(#[doc = $help:literal])+
                $name:ident $(= $default:literal $(, production $production:literal)?)? $(, example $example:literal)?
                    => $field:ident: $type:ty $(as $unit:ident)? $(, > $zero:literal)? $(, $least:literal ..= $most:literal)?;
            )*
        }
        $(with { $($(#[$own:meta])* $part:ident: $parts:ty),+ $(,)? })?
    ) => {
        $(#[$attribute])*
        $vis struct $group {
            $(
                $(#[doc = $help])+
                #[doc = ""]
                #[doc = concat!("`", stringify!($name), "`"
                    $(, ", default `", $default, "`" $(, "; in production `", $production, "`")?)?, ".")]
                $vis $field: $type,
            )*
            $($($(#[$own])* $vis $part: $parts,)+)?
        }

        impl $crate::env::Group for $group {
            const SETTINGS: &'static [$crate::env::Setting] = &[$({
                type Unit = $crate::settings!(@type $type $(, $unit)?);
                let default: Option<&str> = $crate::settings!(@option $($default)?);
                assert!(default.is_some() || <Unit as $crate::env::Value>::ABSENT.is_some(), "a setting without a default is an Option");
                $crate::env::Setting {
                    name: stringify!($name),
                    help: &[$($help),+],
                    default,
                    production: $crate::settings!(@option $($($production)?)?),
                    example: $crate::settings!(@option $($example)?),
                    secret: <Unit as $crate::env::Value>::SECRET,
                    check: $crate::settings!(@check $(> $zero)? $($least $most)?),
                }
            }),*];

            fn read(reader: &mut $crate::env::Reader<'_>) -> Self {
                Self {
                    $($field: {
                        let setting = <Self as $crate::env::Group>::setting(stringify!($name));
                        $crate::settings!(@plain reader.value::<$crate::settings!(@type $type $(, $unit)?)>(setting) $(, $unit)?)
                    },)*
                    $($($part: reader.group(),)+)?
                }
            }
        }

        impl $group {
            /// Reads the variables named on the fields.
            $vis fn from_env(env: &$crate::env::Env) -> Result<Self, $crate::env::Error> {
                env.read(|reader| reader.group())
            }
        }

        impl Default for $group {
            /// The settings of a development node that was told nothing.
            fn default() -> Self {
                $crate::env::Reader::new(&$crate::env::Env::default()).group()
            }
        }
    };
}
