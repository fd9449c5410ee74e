//! A response's head.

use std::mem::MaybeUninit;

use super::{Bad, Field, Framing, elements, framing};

/// A response.
#[derive(Clone, Debug)]
pub struct Response<'h, 'b> {
    /// 100 to 999.
    pub status: u16,
    /// The words for it, which mean nothing.
    pub reason: &'b str,
    /// All fields, as they are written.
    pub fields: &'h [Field<'b>],
    /// How its body ends.
    pub framing: Framing,
    /// Whether the connection can be used again.
    pub keeps_alive: bool,
}

impl<'h, 'b> Response<'h, 'b> {
    /// The first field of a name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|f| f.value)
    }

    /// Reads a head that [`find`](super::find) has found, of the answer to a request: one for a HEAD has no body.
    ///
    /// # Errors
    /// What is wrong with it, or could be understood in two ways.
    pub fn read(
        head: &'b [u8],
        fields: &'h mut [MaybeUninit<Field<'b>>],
        to_head: bool,
    ) -> Result<Self, Bad> {
        let mut parsed = httparse::Response::new(&mut []);
        let (status, reason, minor) = match httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut parsed, head, fields)
        {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {
                (parsed.code, parsed.reason, parsed.version)
            }
            Err(httparse::Error::TooManyHeaders) => return Err(Bad::with(502, "too many fields")),
            _ => return Err(Bad::with(502, "no response of HTTP/1")),
        };
        let fields: &'h [Field<'b>] = parsed.headers;
        let (Some(status @ 100..), Some(minor)) = (status, minor) else {
            return Err(Bad::with(502, "no response of HTTP/1"));
        };
        let said = framing(fields, minor).map_err(|bad| Bad::with(502, bad.why))?;
        let has_no_body = to_head || matches!(status, 100..=199 | 204 | 304);
        let framing = if has_no_body { Framing::None } else { said.unwrap_or(Framing::UntilClose) };
        let says = |word: &[u8]| {
            fields
                .iter()
                .filter(|field| field.name.eq_ignore_ascii_case("connection"))
                .flat_map(|field| elements(field.value))
                .any(|item| item.eq_ignore_ascii_case(word))
        };
        // Who says that a 204 has content may well send it, and it would stand before the next answer.
        let is_sure = status != 204 || matches!(said, None | Some(Framing::Length(0)));
        let keeps_alive = framing != Framing::UntilClose
            && is_sure
            && !says(b"close")
            && (minor == 1 || says(b"keep-alive"));
        Ok(Self { status, reason: reason.unwrap_or_default(), fields, framing, keeps_alive })
    }
}
