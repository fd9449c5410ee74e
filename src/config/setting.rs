//! One row of the settings table, and the macro that makes a table into a struct.

/// A setting: its names, default, rules and help.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable.
    pub env: &'static str,
    /// The path in the file, `group.key` or `key`.
    pub toml: &'static str,
    /// The default as it would be written; in parentheses, or `-`, when it is an absent value.
    pub default: &'static str,
    /// What is accepted, with unit and range; follows the words "must be".
    pub accepts: fn() -> String,
    /// How TOML writes it.
    pub shape: super::value::Shape,
    /// Whether a change takes effect without a restart.
    pub reloadable: bool,
    /// Whether its value is masked wherever it is shown; such a setting has a `_FILE` form too.
    pub secret: bool,
    /// What it is for, in one line.
    pub help: &'static str,
}

impl Setting {
    /// The variable that names a file with the value, for a secret.
    #[must_use]
    pub fn env_file(&self) -> Option<String> {
        self.secret.then(|| format!("{}_FILE", self.env))
    }

    /// Whether the default is an absent value.
    #[must_use]
    pub fn is_absent_by_default(&self) -> bool {
        self.default == "-" || self.default.starts_with('(')
    }

    /// The default as text to parse.
    pub(super) fn default_text(&self) -> &'static str {
        if self.is_absent_by_default() { "" } else { self.default }
    }
}

/// Makes the table, the struct with one field a row, and the function that fills it.
///
/// A row: `field: Type = default, VARIABLE, "toml.path", reload|restart, "help";`
macro_rules! settings {
    ($(
        $field:ident: $type:ty = $default:literal, $env:ident, $toml:literal,
        $change:ident, $help:literal;
    )*) => {
        /// Every setting with the value in effect.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(clippy::doc_markdown, reason = "the same words are read outside the code")]
        pub struct Settings {
            $(#[doc = $help] pub $field: $type,)*
        }

        /// Every setting there is, in the order in which people read about them.
        pub static TABLE: &[Setting] = &[$(Setting {
            env: stringify!($env),
            toml: $toml,
            default: $default,
            accepts: <$type as Value>::accepts,
            shape: <$type as Value>::SHAPE,
            reloadable: settings!(@$change),
            secret: <$type as Value>::SECRET,
            help: $help,
        },)*];

        impl Settings {
            /// Asks `resolver` for each setting, in the order of the table.
            pub(super) fn resolve(resolver: &mut Resolver<'_>) -> Self {
                let mut rows = TABLE.iter();
                let mut row = || rows.next().expect("the table has a row for each field");
                Self { $($field: resolver.value::<$type>(row()),)* }
            }

            /// These, but for those that only a restart changes: they stay as they are in `running`.
            pub(super) fn in_place_of(self, running: &Self) -> Self {
                Self { $($field: settings!(@kept $change, self.$field, running.$field),)* }
            }
        }
    };
    (@kept reload, $new:expr, $old:expr) => { $new };
    (@kept restart, $new:expr, $old:expr) => { $old.clone() };
    (@reload) => { true };
    (@restart) => { false };
}

pub(super) use settings;
