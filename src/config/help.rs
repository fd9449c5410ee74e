//! The settings table as people read it: a commented file, and a page of documentation.

use std::fmt::Write as _;

use super::setting::Setting;
use super::table::TABLE;
use super::value::Shape;

const HEAD: &str = "\
# The configuration of edge-proxy.
#
# Every setting stands here at its default, commented out. The environment variable named with it
# wins over this file. Lists are written [\"a\", \"b\"] or \"a,b\"; an empty text means absent.
";

const PARTS: &str = r#"
# What only this file can say follows, each with an example.

# One more listener. `app` names the app that it serves.
#: [[listener]]
#: addr = ["0.0.0.0:5432", "[::]:5433"]
#: app = "db"
#: mode = "tcp"

# One that passes TLS through: the server's name that a client asks for leads to the app whose `sni`
# has it, or to `app`; without `app` other names are refused.
#: [[listener]]
#: addr = "0.0.0.0:8443"
#: tls = "passthrough"

# One that ends TLS. `alpn` is what it offers, where that differs from `tls.alpn` above.
#: [[listener]]
#: addr = "0.0.0.0:8443"
#: tls = true
#: alpn = ["h2", "http/1.1"]

# A certificate for the names in it, or for `names`. `client_ca` and `client_auth` say of whom clients
# must have certificates to get to these names, where that differs from `tls` above.
#: [[certificate]]
#: cert = "/etc/edgeproxy/www.crt"
#: key = "/etc/edgeproxy/www.key"
#: names = ["www.example.com", "*.web.example.com"]
#: client_ca = "/etc/edgeproxy/clients.pem"
#: client_auth = "required"

# What holds for one app. `spill` is how far from home its clients may be served: any, region or
# country; beyond it they are refused. With such a table, name the app of the plain listener by
# EDGEPROXY_APP instead of `app` above. `hosts` lead to it in http mode. `health` is how its backends are probed, where that differs
# from `health_check` above: type, path, expected_status, host (what the request says for Host), port.
#: [app.web]
#: hosts = ["www.example.com", "*.web.example.com"]
#: sni = ["www.example.com", "*.web.example.com"]
#: spill = "region"
#: affinity_ttl_secs = 3600
#: idle_timeout_secs = 600
#: health = { type = "http", path = "/up", port = 8081 }

# A region of your own: the countries that belong to it, and its neighbours, nearest first.
#: [regions.af]
#: countries = ["ZA", "NA"]
#: near = ["eu", "us"]

# Where a range of addresses is, whatever the country database says.
#: [[geo_override]]
#: cidr = "10.20.0.0/16"
#: country = "CL"

# The backends, for those who need no database: this file is then the registry, in place of SQLite
# and PostgreSQL. `id`, `app`, `region`, `wg_ip` and `port` must be given; of the others the
# defaults stand here (`country`: unknown). `healthy = false` drains, `deleted = true` forgets.
#: [[backend]]
#: id = "gru-1"
#: app = "web"
#: region = "sa"
#: country = "BR"
#: wg_ip = "10.50.1.1"
#: port = 8080
#: weight = 1
#: soft_limit = 100
#: hard_limit = 150
#: healthy = true
#: deleted = false
"#;

/// A TOML file with every setting at its default, commented out and explained.
#[must_use]
pub fn template() -> String {
    let mut text = String::from(HEAD);
    let mut open = "";
    for setting in TABLE {
        let (group, key) = setting.toml.split_once('.').unwrap_or(("", setting.toml));
        if group != open {
            // The header is live, so that a line below it can be made live alone.
            write!(text, "\n[{group}]\n").expect("a string takes everything");
            open = group;
        }
        write!(text, "\n{}#{key} = {}\n", comment(setting), literal(setting))
            .expect("a string takes everything");
    }
    text.push_str(PARTS);
    text
}

fn comment(setting: &Setting) -> String {
    let absent = if setting.is_absent_by_default() {
        format!(" Default: {}.", setting.default.trim_matches(['(', ')', '-']).trim())
            .replace("Default: .", "Default: none.")
    } else {
        String::new()
    };
    format!("# {}\n# {}: {}.{absent}\n", setting.help, setting.env, (setting.accepts)())
}

fn literal(setting: &Setting) -> String {
    let text = setting.default_text();
    match setting.shape {
        Shape::Number | Shape::Switch if !text.is_empty() => text.into(),
        _ => format!("{text:?}"),
    }
}

/// The settings as a Markdown table.
#[must_use]
pub fn readme_table() -> String {
    let mut text =
        String::from("| Variable | TOML | Default | Reload | |\n|---|---|---|---|---|\n");
    for setting in TABLE {
        let default = match setting.default {
            absent if setting.is_absent_by_default() => absent.into(),
            default => format!("`{default}`"),
        };
        let file = if setting.secret { " Has a `_FILE` form." } else { "" };
        let reload = if setting.reloadable { "yes" } else { "restart" };
        writeln!(
            text,
            "| `{}` | `{}` | {default} | {reload} | {}{file} |",
            setting.env, setting.toml, setting.help
        )
        .expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::PathBuf;

    use super::*;
    use crate::config::{Config, Settings, Source, load};

    fn loaded(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let file: PathBuf = dir.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        load(&Source { env: Vec::new(), file: Some(file) }).unwrap()
    }

    fn uncommented(prefix: &str) -> String {
        template().lines().fold(String::new(), |mut text, line| {
            let live = match line.strip_prefix(prefix) {
                Some(rest) if !rest.starts_with([' ', ':']) => rest,
                _ => line,
            };
            writeln!(text, "{live}").unwrap();
            text
        })
    }

    #[test]
    fn the_template_is_the_defaults_as_it_is_and_with_every_setting_made_live() {
        for text in [template(), uncommented("#")] {
            let config = loaded(&text);
            assert_eq!(config.settings, Settings::default());
            assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        }
        let live = uncommented("#");
        let lines = live.lines().filter(|line| line.contains(" = ") && !line.starts_with('#'));
        assert_eq!(lines.count(), TABLE.len());
    }

    #[test]
    fn the_examples_of_the_template_load() {
        let config = loaded(&uncommented("#: "));
        assert_eq!(config.listeners[0].addr.len(), 2);
        assert_eq!((config.apps.len(), config.geo_overrides.len()), (1, 1));
        assert_eq!(config.atlas.countries.len(), 2);
        let backends = config.backends.unwrap();
        assert_eq!(backends[0].addr().to_string(), "10.50.1.1:8080");
        assert_eq!((backends[0].soft_limit, backends[0].hard_limit), (100, 150));
        assert_eq!((config.warnings.len(), config.notices.len()), (0, 0));
    }

    #[test]
    fn the_page_has_a_row_of_four_cells_for_each_setting() {
        let page = readme_table();
        assert_eq!(page.lines().count(), 2 + TABLE.len());
        assert!(page.lines().all(|row| row.matches('|').count() == 6), "{page}");
        let row = "| `EDGEPROXY_IDLE_TIMEOUT_SECS` | `idle_timeout_secs` | `3600` | yes |";
        assert!(page.contains(row), "{page}");
    }
}
