//! A country database in `MaxMind`'s format: `GeoLite2`, `DB-IP`, `IPinfo` and those made like them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions};

use super::date;
use crate::domain::Country;
use crate::domain::ports::CountryLookup;

/// Where makers of databases put the code, the likeliest first. In a file where `country` holds
/// a country's name it is no code, so the next place is asked.
const PLACES: [&[PathElement<'static>]; 4] = [
    &[PathElement::Key("country"), PathElement::Key("iso_code")],
    &[PathElement::Key("country_code")],
    &[PathElement::Key("country")],
    &[PathElement::Key("registered_country"), PathElement::Key("iso_code")],
];

/// Records looked at before a file counts as one without countries.
const MAX_SAMPLE: usize = 10_000;

/// A geo database that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("geo database {}: {reason}", path.display())]
pub struct GeoError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Countries from a file, held in memory: replacing or truncating the file does no harm.
#[derive(Debug)]
pub struct MmdbGeo {
    path: PathBuf,
    reader: Reader<Vec<u8>>,
}

impl MmdbGeo {
    /// Reads the file. Blocks while it does.
    ///
    /// # Errors
    /// When the file cannot be read, is not in `MaxMind`'s format, or holds no countries.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, GeoError> {
        let path = path.into();
        match read(&path) {
            Ok(reader) => Ok(Self { path, reader }),
            Err(reason) => Err(GeoError { path, reason }),
        }
    }
}

impl CountryLookup for MmdbGeo {
    fn country(&self, ip: IpAddr) -> Option<Country> {
        // Also an error for an IPv6 address in a table of IPv4 only: not known, all the same.
        code(&self.reader.lookup(ip.to_canonical()).ok()?)
    }

    fn describe(&self) -> String {
        let kind = &self.reader.metadata().database_type;
        format!(
            "{kind} {} (built {})",
            self.path.display(),
            date(self.reader.metadata().build_epoch)
        )
    }

    fn built(&self) -> Option<u64> {
        Some(self.reader.metadata().build_epoch)
    }
}

fn read(path: &Path) -> Result<Reader<Vec<u8>>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let reader = Reader::from_source(bytes)
        .map_err(|error| format!("not a MaxMind database (.mmdb): {error}"))?;
    let damaged = |error: MaxMindDbError| format!("damaged: {error}");
    let mut sampled = 0;
    for record in reader.networks(WithinOptions::default()).map_err(damaged)?.take(MAX_SAMPLE) {
        if code(&record.map_err(damaged)?).is_some() {
            return Ok(reader);
        }
        sampled += 1;
    }
    Err(format!(
        "holds no countries: it is a {}, and none of {sampled} records has a two-letter \
         country.iso_code, country_code, country or registered_country.iso_code",
        reader.metadata().database_type
    ))
}

fn code(record: &LookupResult<'_, Vec<u8>>) -> Option<Country> {
    PLACES.iter().find_map(|place| {
        let text: &str = record.decode_path(place).ok()??;
        // What some files write for "nowhere"; `??` and the like are no letters anyway.
        if matches!(text, "ZZ" | "XX" | "zz" | "xx") { None } else { text.parse().ok() }
    })
}

#[cfg(test)]
mod tests {
    use super::super::mmdb_writer::{Value, map, mmdb};
    use super::*;

    const NETWORK: [u8; 3] = [203, 0, 113];
    /// 2026-10-01.
    const BUILT: u64 = 1_790_812_800;

    fn file(record: &Value) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), mmdb("Test-Country", BUILT, &[(NETWORK, record.clone())]))
            .unwrap();
        file
    }

    fn open(record: &Value) -> MmdbGeo {
        MmdbGeo::open(file(record).path()).unwrap()
    }

    fn country(geo: &MmdbGeo, ip: &str) -> Option<String> {
        geo.country(ip.parse().unwrap()).map(|country| country.to_string())
    }

    fn iso(field: &'static str, code: &'static str) -> Value {
        map([(field, map([("iso_code", Value::Text(code))]))])
    }

    #[test]
    fn every_common_schema_gives_its_country() {
        for record in [
            iso("country", "BR"),
            iso("registered_country", "BR"),
            map([("country_code", Value::Text("BR"))]),
            map([("country", Value::Text("BR"))]),
            map([("country", Value::Text("Brazil")), ("country_code", Value::Text("br"))]),
            map([
                ("country", map([("iso_code", Value::Text("BR"))])),
                ("registered_country", map([("iso_code", Value::Text("US"))])),
            ]),
        ] {
            let geo = open(&record);
            assert_eq!(country(&geo, "203.0.113.7").as_deref(), Some("BR"), "{record:?}");
            assert_eq!(country(&geo, "::ffff:203.0.113.7").as_deref(), Some("BR"), "{record:?}");
            assert_eq!(country(&geo, "203.0.114.7"), None);
            assert_eq!(country(&geo, "2001:db8::1"), None, "the file is IPv4 only");
        }
    }

    #[test]
    fn nowhere_and_junk_are_not_countries() {
        for junk in ["ZZ", "XX", "??", "", "B", "BRA", "--"] {
            let networks =
                [(NETWORK, iso("country", junk)), ([198, 51, 100], iso("country", "BR"))];
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), mmdb("Test", BUILT, &networks)).unwrap();
            let geo = MmdbGeo::open(file.path()).unwrap();
            assert_eq!(country(&geo, "203.0.113.7"), None, "{junk:?}");
            assert_eq!(country(&geo, "198.51.100.7").as_deref(), Some("BR"));
        }
    }

    #[test]
    fn it_names_its_kind_its_file_and_its_date() {
        let file = file(&iso("country", "BR"));
        let expected = format!("Test-Country {} (built 2026-10-01)", file.path().display());
        assert_eq!(MmdbGeo::open(file.path()).unwrap().describe(), expected);
    }

    #[test]
    fn an_unusable_file_is_named_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text.mmdb");
        std::fs::write(&text, "hello").unwrap();
        let asn = file(&map([("autonomous_system_organization", Value::Text("Example"))]));
        for (path, reason) in [
            (folder.path().join("none.mmdb").as_path(), "No such file"),
            (folder.path(), "directory"),
            (&text, "not a MaxMind database"),
            (asn.path(), "holds no countries: it is a Test-Country"),
        ] {
            let error = MmdbGeo::open(path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_damaged_file_is_refused_or_answers_but_never_panics() {
        let whole = mmdb("Test", BUILT, &[(NETWORK, iso("country", "BR"))]);
        let file = tempfile::NamedTempFile::new().unwrap();
        for place in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[place] ^= flip;
                std::fs::write(file.path(), damaged).unwrap();
                if let Ok(geo) = MmdbGeo::open(file.path()) {
                    let _ = country(&geo, "203.0.113.7");
                    let _ = country(&geo, "2001:db8::1");
                    let _ = geo.describe();
                }
            }
        }
    }
}
