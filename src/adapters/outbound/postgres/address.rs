//! The database's address as libpq takes it: a URL, or `key=value` pairs.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::failed::chain;
use super::tls::{Mode, Roots, Security};

/// What a connection calls itself unless its address says otherwise.
const APPLICATION: &str = "edgeproxy";
/// A peer that is gone is found after a minute: 30 s of silence, then three unanswered questions.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

const FORM: &str = "must be postgres://user:password@host:5432/name or key=value pairs, \
    as libpq takes them; what is special in a URL is percent-encoded";

/// Parameters that are taken as they are.
const PASSED_ON: [&str; 14] = [
    "user",
    "password",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "options",
    "application_name",
    "connect_timeout",
    "keepalives",
    "keepalives_interval",
    "sslnegotiation",
    "target_session_attrs",
    "load_balance_hosts",
];

/// Parameters of libpq's that change nothing here.
const WITHOUT_EFFECT: [&str; 6] =
    ["client_encoding", "gssdelegation", "gsslib", "krbsrvname", "sslcompression", "sslsni"];

/// Parameters that are known and refused by name. The name of any other is not shown: it may be
/// part of a password.
const REFUSED: [&str; 16] = [
    "connection_limit",
    "passfile",
    "pgbouncer",
    "pool_timeout",
    "replication",
    "require_auth",
    "requirepeer",
    "schema",
    "service",
    "sslcertmode",
    "sslcrl",
    "sslcrldir",
    "sslpassword",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslkeylogfile",
];

/// Where the database is, who asks, and how safely.
#[derive(Clone)]
pub(super) struct Address {
    /// With the password. Its mode of TLS is not set.
    pub config: Config,
    pub security: Security,
    /// Without the password.
    pub shown: String,
}

/// One parameter: how it was written, and what it says.
struct Parameter {
    written: String,
    key: String,
    value: String,
}

/// What is not the library's to know.
#[derive(Default)]
struct Ours {
    mode: Option<Mode>,
    roots: Option<Roots>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    user_timeout: Option<Duration>,
    keepalive_idle: Option<Duration>,
    keepalive_retries: Option<u32>,
    fallback_application: Option<String>,
}

impl Address {
    /// Reads an address. No part of a password is in the error.
    pub(super) fn parse(text: &str, connect_timeout: Duration) -> Result<Self, String> {
        let text = text.trim();
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let (head, parameters) = if is_url { url(text)? } else { ("", pairs(text)?) };
        let mut ours = Ours::default();
        let mut passed_on = Vec::new();
        for parameter in parameters {
            if !ours.take(&parameter)? {
                passed_on.push(parameter.written);
            }
        }
        let text =
            if is_url { format!("{head}?{}", passed_on.join("&")) } else { passed_on.join(" ") };
        let config = Config::from_str(&text).map_err(|error| chain(&error))?;
        let (config, security) = ours.complete(config, connect_timeout)?;
        let shown = shown(&config);
        Ok(Self { config, security, shown })
    }
}

impl Ours {
    /// Whether the parameter is one of ours, or to be left out.
    fn take(&mut self, parameter: &Parameter) -> Result<bool, String> {
        let Parameter { key, value, .. } = parameter;
        let path = || (!value.is_empty()).then(|| PathBuf::from(value));
        let number = || value.parse::<u32>().map_err(|_| format!("{key} must be a whole number"));
        match key.as_str() {
            "sslmode" => self.mode = Some(value.parse()?),
            "ssl" if value == "true" => self.mode = Some(Mode::Require),
            "sslrootcert" if value == "system" => self.roots = Some(Roots::System),
            "sslrootcert" => self.roots = path().map(Roots::File),
            "sslcert" => self.cert = path(),
            "sslkey" => self.key = path(),
            // In milliseconds, as libpq has it.
            "tcp_user_timeout" => {
                self.user_timeout = Some(Duration::from_millis(number()?.into()));
            }
            "keepalives_idle" => self.keepalive_idle = Some(Duration::from_secs(number()?.into())),
            "keepalives_count" => self.keepalive_retries = Some(number()?),
            "fallback_application_name" => self.fallback_application = Some(value.clone()),
            "gssencmode" | "channel_binding" if value == "require" => {
                return Err(format!("{key}=require is not supported"));
            }
            "gssencmode" | "channel_binding" => {}
            key if WITHOUT_EFFECT.contains(&key) => {}
            key if PASSED_ON.contains(&key) => return Ok(false),
            key if REFUSED.contains(&key) => return Err(format!("{key} is not supported")),
            _ => return Err(format!("a parameter is not known; {FORM}")),
        }
        Ok(true)
    }

    fn complete(
        self,
        mut config: Config,
        connect_timeout: Duration,
    ) -> Result<(Config, Security), String> {
        if config.get_hosts().is_empty() {
            if config.get_hostaddrs().is_empty() {
                return Err(format!("names no host; {FORM}"));
            }
            for addr in config.get_hostaddrs().to_vec() {
                config.host(addr.to_string());
            }
        }
        if config.get_application_name().is_none() {
            config.application_name(self.fallback_application.as_deref().unwrap_or(APPLICATION));
        }
        // All hosts together may take no longer than one; a single one is given up by whoever asked.
        let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(1).max(1);
        let given = config.get_connect_timeout().copied().filter(|given| *given < connect_timeout);
        if hosts > 1 || given.is_some() {
            config.connect_timeout(given.unwrap_or(connect_timeout) / hosts);
        }
        config.keepalives_idle(self.keepalive_idle.unwrap_or(KEEPALIVE_IDLE));
        if config.get_keepalives_interval().is_none() {
            config.keepalives_interval(KEEPALIVE_INTERVAL);
        }
        config.keepalives_retries(self.keepalive_retries.unwrap_or(KEEPALIVE_RETRIES));
        if let Some(timeout) = self.user_timeout.filter(|timeout| !timeout.is_zero()) {
            config.tcp_user_timeout(timeout);
        }
        let identity = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("sslcert and sslkey must be given together".into()),
        };
        Ok((config, Security::new(self.mode, self.roots, identity)?))
    }
}

fn shown(config: &Config) -> String {
    let ports = config.get_ports();
    let host = |(place, host): (usize, &Host)| {
        let port = ports.get(place).or_else(|| ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    };
    let hosts: Vec<_> = config.get_hosts().iter().enumerate().map(host).collect();
    let user = config.get_user().map_or(String::new(), |user| format!("{user}@"));
    let name = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("PostgreSQL {user}{}/{name}", hosts.join(","))
}

/// A URL up to its parameters, and these.
fn url(text: &str) -> Result<(&str, Vec<Parameter>), String> {
    let start = text.find("://").map_or(0, |at| at + 3);
    // As libpq has it: a password ends at the first `@`, when no `/` comes before it.
    let login = text[start..].find(['@', '/']).filter(|at| text[start + at..].starts_with('@'));
    let after_login = start + login.unwrap_or(0);
    let Some(at) = text[after_login..].find('?') else {
        return Ok((text, Vec::new()));
    };
    let (head, query) = text.split_at(after_login + at);
    let parameter = |written: &str| {
        let (key, value) = written.split_once('=')?;
        // Elsewhere than in a login the library would take it for the end of one.
        let written = written.replace('@', "%40");
        Some(Parameter { written, key: decoded(key)?, value: decoded(value)? })
    };
    let written = query[1..].split('&').filter(|written| !written.is_empty());
    let parameters = written.map(parameter).collect::<Option<Vec<_>>>();
    Ok((head, parameters.ok_or_else(|| format!("a parameter cannot be read; {FORM}"))?))
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let (code, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// `key = value` pairs, where a value may be quoted, and a backslash takes the next character as
/// it is.
fn pairs(text: &str) -> Result<Vec<Parameter>, String> {
    let mut parameters = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| FORM.to_owned())?;
        let (value, after) = pair_value(after.trim_start()).ok_or_else(|| FORM.to_owned())?;
        let key = key.trim().to_owned();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(FORM.into());
        }
        let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
        parameters.push(Parameter { written: format!("{key}='{escaped}'"), key, value });
        rest = after.trim_start();
    }
    if parameters.is_empty() { Err(FORM.into()) } else { Ok(parameters) }
}

fn pair_value(text: &str) -> Option<(String, &str)> {
    let (quoted, text) = text.strip_prefix('\'').map_or((false, text), |text| (true, text));
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.push(characters.next()?.1),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}
