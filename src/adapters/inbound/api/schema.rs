//! What text must look like, in the words of JSON Schema; and numbers as JSON has them.

use serde::{Deserialize, Deserializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! text {
    ($(#[$doc:meta])* $name:ident = $schema:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema
            }
        }

        impl ToSchema for $name {}
    };
}

text! {
    /// A name of a backend, an app or a region.
    Name = object().pattern(Some("^[^\\s,\"'`\\u0000-\\u001F\\u007F-\\u009F]{1,128}$")).max_length(Some(128)).build().into()
}
text! {
    /// An IP address.
    Address = any_of([formatted("ipv4"), formatted("ipv6")])
}
text! {
    /// An IP address or a range (CIDR).
    Range = any_of([
        formatted("ipv4"),
        formatted("ipv6"),
        object().pattern(Some(V4_RANGE)).build().into(),
        object().pattern(Some(V6_RANGE)).build().into(),
    ])
}
text! {
    /// A country (ISO 3166-1, two letters); empty = unknown.
    CountryCode = object().pattern(Some("^([A-Za-z]{2})?$")).build().into()
}

const V4_RANGE: &str = "^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])/(3[0-2]|[12]?[0-9])$";
/// Only the long form is told of; the short ones are taken as well.
const V6_RANGE: &str = "^([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$";

fn object() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn any_of<const N: usize>(schemas: [Schema; N]) -> RefOr<Schema> {
    let all = schemas.into_iter().fold(AnyOfBuilder::new(), AnyOfBuilder::item);
    RefOr::T(Schema::AnyOf(all.build()))
}

fn formatted(format: &str) -> Schema {
    object().format(Some(SchemaFormat::Custom(format.into()))).build().into()
}

/// A whole number, however JSON writes it: `80.0` is one.
pub(super) fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    Whole::deserialize(from).map(|whole| whole.0)
}

/// The same where it may be missing or null.
pub(super) fn maybe_whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    Ok(Option::<Whole>::deserialize(from)?.map(|whole| whole.0))
}

struct Whole(i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Whole;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Whole, E> {
                Ok(Whole(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Whole, E> {
                Ok(Whole(i64::try_from(number).unwrap_or(i64::MAX)))
            }

            #[expect(clippy::cast_possible_truncation, reason = "it stops at the limits")]
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Whole, E> {
                if number.fract() == 0.0 {
                    Ok(Whole(number as i64))
                } else {
                    Err(E::invalid_type(serde::de::Unexpected::Float(number), &self))
                }
            }
        }

        from.deserialize_any(Visitor)
    }
}
