//! The value of each setting: environment, else file, else default.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use toml::Spanned;
use toml::de::DeValue;

use super::document::{Document, read_text, shortened, shown, text_of};
use super::error::{ConfigError, Place, Report};
use super::secret::{MASK, Secret};
use super::setting::Setting;
use super::source::{NOT_UTF8, STATE_DIRECTORY};
use super::value::{Shape, Value};

/// Longest file with a secret, in bytes.
const MAX_SECRET: u64 = 64 << 10;

/// A setting with the value in effect and where it came from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value; masked when it is a secret, `-` when absent.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// What the file says when the environment overrides it, likewise masked. `None` when it says
    /// nothing, or what is not accepted: that is an error only once it counts.
    pub in_file: Option<String>,
    /// The secrets behind `value` and `in_file`, which look alike when they are shown.
    pub(super) secret: Option<Secret>,
    pub(super) secret_in_file: Option<Secret>,
}

impl Effective {
    /// Has the value in effect stay as it was, whatever the file says now.
    pub(super) fn stay(&mut self, before: &Self) {
        self.value.clone_from(&before.value);
        self.secret.clone_from(&before.secret);
        self.origin = before.origin;
    }
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The configuration file.
    File,
    /// The environment.
    Env,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Env => "env",
        })
    }
}

/// Finds values, and keeps what was found and what was wrong.
pub(super) struct Resolver<'a> {
    env: HashMap<&'a str, &'a str>,
    document: Option<&'a Document<'a>>,
    pub(super) effective: Vec<Effective>,
    pub(super) report: Report,
    /// Variables whose settings have their defaults because what was given is wrong.
    failed: Vec<&'static str>,
}

/// A text that was given, and how an error names it.
struct Given {
    text: String,
    origin: Origin,
    subject: String,
    place: Option<Place>,
}

impl Given {
    fn error(self, problem: impl Into<String>) -> ConfigError {
        let subject = Some(self.subject);
        ConfigError { place: self.place, subject, problem: problem.into() }
    }
}

impl<'a> Resolver<'a> {
    pub(super) fn new(
        env: &'a [(String, String)],
        document: Option<&'a Document<'a>>,
        report: Report,
    ) -> Self {
        // A variable set to nothing counts as not set.
        let env = env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Self { env, document, effective: Vec::new(), report, failed: Vec::new() }
    }

    /// The value of `setting`; its default when what was given is wrong.
    pub(super) fn value<T: Value>(&mut self, setting: &'static Setting) -> T {
        let parsed = self.find(setting).and_then(|given| {
            let Some(given) = given else { return Ok(None) };
            match T::parse(&given.text) {
                Some(value) => Ok(Some((value, given))),
                None => Err(given.error(format!("must be {}", T::accepts()))),
            }
        });
        let given = parsed.unwrap_or_else(|error| {
            self.report.errors.push(error);
            self.failed.push(setting.env);
            None
        });
        let secret_of = |given: &Given| Secret::parse(&given.text).filter(|_| setting.secret);
        let (value, origin, secret) = if let Some((value, given)) = given {
            (value, given.origin, secret_of(&given))
        } else {
            let value = T::parse(setting.default_text()).expect("every default is accepted");
            (value, Origin::Default, None)
        };
        let beside = (origin == Origin::Env).then(|| self.in_file(setting).ok().flatten());
        let overridden = beside.flatten().and_then(|given| Some((T::parse(&given.text)?, given)));
        self.effective.push(Effective {
            setting,
            value: value.show(),
            origin,
            in_file: overridden.as_ref().map(|(value, _)| value.show()),
            secret,
            secret_in_file: overridden.and_then(|(_, given)| secret_of(&given)),
        });
        value
    }

    /// Where in the file the value at `path` begins, if there is one.
    pub(super) fn place(&self, path: &str) -> Option<Place> {
        let document = self.document?;
        Some(document.place(&document.get(path)?.span()))
    }

    /// Reports that the setting of variable `env` breaks a rule that also depends on the settings
    /// of `others`. A setting that is wrong by itself has been reported, and stands at its default.
    pub(super) fn refuse(&mut self, env: &str, others: &[&str], problem: &str) {
        if self.failed.contains(&env) || others.iter().any(|other| self.failed.contains(other)) {
            return;
        }
        let row = self.effective.iter().find(|row| row.setting.env == env);
        let in_file = row.filter(|row| row.origin == Origin::File).and_then(|row| {
            let value = self.document?.get(row.setting.toml)?;
            let place = self.document?.place(&value.span());
            Some((
                place,
                format!("{} = {} ({env})", row.setting.toml, shown_of(row.setting, value)),
            ))
        });
        let in_env = row.filter(|row| row.origin == Origin::Env);
        let subject = in_env.map_or(env.into(), |row| format!("{env} = {:?}", row.value));
        let (place, subject) = in_file.map_or((None, subject), |(at, subject)| (Some(at), subject));
        let problem = problem.into();
        self.report.errors.push(ConfigError { place, subject: Some(subject), problem });
    }

    fn find(&self, setting: &Setting) -> Result<Option<Given>, ConfigError> {
        if let Some(given) = self.in_env(setting)? {
            return Ok(Some(given));
        }
        if let Some(given) = self.in_file(setting)? {
            return Ok(Some(given));
        }
        Ok(self.systemd_folder(setting))
    }

    fn in_env(&self, setting: &Setting) -> Result<Option<Given>, ConfigError> {
        let direct = self.env.get(setting.env).map(|text| {
            let shown = if setting.secret { MASK.into() } else { format!("{text:?}") };
            Given {
                text: (*text).into(),
                origin: Origin::Env,
                subject: format!("{} = {}", setting.env, shortened(shown)),
                place: None,
            }
        });
        let given = match (direct, self.in_secret_file(setting)?) {
            (Some(direct), Some(_)) => {
                return Err(direct.error(format!("{}_FILE is set too; use one", setting.env)));
            }
            (direct, from_file) => direct.or(from_file),
        };
        match given {
            Some(given) if given.text.contains(NOT_UTF8) => Err(given.error("must be UTF-8 text")),
            given => Ok(given),
        }
    }

    /// `NAME_FILE` names a file that holds a secret.
    fn in_secret_file(&self, setting: &Setting) -> Result<Option<Given>, ConfigError> {
        let Some(name) = setting.env_file() else { return Ok(None) };
        let Some(path) = self.env.get(name.as_str()) else { return Ok(None) };
        let mut given = Given {
            text: String::new(),
            origin: Origin::Env,
            subject: format!("{name} = {path:?}"),
            place: None,
        };
        match read_text(Path::new(path), MAX_SECRET) {
            Err(reason) => Err(given.error(format!("cannot be read: {reason}"))),
            Ok(text) => {
                given.text = text.trim_end_matches(['\n', '\r']).into();
                if given.text.is_empty() { Err(given.error("is empty")) } else { Ok(Some(given)) }
            }
        }
    }

    fn in_file(&self, setting: &Setting) -> Result<Option<Given>, ConfigError> {
        let Some(document) = self.document else { return Ok(None) };
        let Some(value) = document.get(setting.toml) else { return Ok(None) };
        // `app` is a name here, and `[app.NAME]` is read elsewhere.
        if setting.toml == "app" && value.get_ref().is_table() {
            return Ok(None);
        }
        let shown = shown_of(setting, value);
        let given = Given {
            text: String::new(),
            origin: Origin::File,
            subject: format!("{} = {shown} ({})", setting.toml, setting.env),
            place: Some(document.place(&value.span())),
        };
        match text_of(value.get_ref(), setting.shape) {
            Some(text) => Ok(Some(Given { text, ..given })),
            None => Err(given.error(must_be(&(setting.accepts)(), setting.shape))),
        }
    }

    fn systemd_folder(&self, setting: &Setting) -> Option<Given> {
        let folders = self.env.get(STATE_DIRECTORY).filter(|_| setting.toml == "state_dir")?;
        Some(Given {
            text: folders.split(':').next().unwrap_or_default().into(),
            origin: Origin::Env,
            subject: format!("{STATE_DIRECTORY} = {folders:?}"),
            place: None,
        })
    }
}

/// A value of the file as an error repeats it.
fn shown_of(setting: &Setting, value: &Spanned<DeValue<'_>>) -> String {
    if setting.secret { MASK.into() } else { shown(value.get_ref()) }
}

/// The rule that a value of the wrong TOML type breaks.
pub(super) fn must_be(accepts: &str, shape: Shape) -> String {
    let quotes = if shape == Shape::Text { ", in quotes" } else { "" };
    format!("must be {accepts}{quotes}")
}
