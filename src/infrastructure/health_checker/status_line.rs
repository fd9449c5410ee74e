//! The first line of an HTTP/1 answer (RFC 9112, 4), of which the status is all that matters.

/// No status line is longer than this, in bytes; nothing after them is read.
pub(super) const LIMIT: usize = 1024;

/// How much of what is no status line is shown, in bytes.
const SHOWN: usize = 40;

const START: &[u8] = b"HTTP/1.";

/// The status in what was read so far; `None` when the line has not ended yet.
///
/// # Errors
/// What was read cannot become an HTTP/1.0 or 1.1 status line: says so and shows its beginning.
pub(super) fn parse(read: &[u8]) -> Result<Option<u16>, String> {
    let end = read.iter().position(|byte| *byte == b'\n');
    let line = &read[..end.unwrap_or(read.len())];
    let begins = line.len().min(START.len());
    if line[..begins] != START[..begins] {
        return Err(not_http(line));
    }
    if end.is_none() {
        let too_long = format!("the status line does not end within {LIMIT} bytes");
        return if read.len() < LIMIT { Ok(None) } else { Err(too_long) };
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let digits = match line.strip_prefix(START) {
        Some([b'0' | b'1', b' ', digits @ ..]) => match digits {
            [a, b, c] | [a, b, c, b' ', ..] => [a, b, c],
            _ => return Err(not_http(line)),
        },
        _ => return Err(not_http(line)),
    };
    if !digits.iter().all(|digit| digit.is_ascii_digit()) {
        return Err(not_http(line));
    }
    Ok(Some(digits.iter().fold(0, |status, digit| status * 10 + u16::from(**digit - b'0'))))
}

fn not_http(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let shown = &line[..line.len().min(SHOWN)];
    let more = if shown.len() < line.len() { "..." } else { "" };
    format!("the answer is not HTTP/1.0 or 1.1: \"{}{more}\"", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read_with_and_without_its_trimmings() {
        for (line, status) in [
            ("HTTP/1.1 200 OK\r\n", 200),
            ("HTTP/1.0 204\n", 204),
            ("HTTP/1.1 503 \r\nServer: x\r\n", 503),
            ("HTTP/1.1 007 Bond\n", 7),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(Some(status)), "{line}");
        }
    }

    #[test]
    fn a_line_that_has_not_ended_is_waited_for() {
        for line in ["", "H", "HTTP/1.", "HTTP/1.1 200 OK\r"] {
            assert_eq!(parse(line.as_bytes()), Ok(None), "{line}");
        }
    }

    #[test]
    fn what_is_no_status_line_is_shown_as_far_as_it_goes() {
        for line in [
            "\n",
            "http/1.1 200 OK\n",
            "HTTP/2 200\n",
            "HTTP/1.2 200 OK\n",
            "HTTP/1.1  200 OK\n",
            "HTTP/1.1 20 OK\n",
            "HTTP/1.1 2000 OK\n",
            "HTTP/1.1 +20 OK\n",
            "HTTP/1.1\n",
        ] {
            let reason = parse(line.as_bytes()).unwrap_err();
            let shown = format!("not HTTP/1.0 or 1.1: \"{}\"", line.trim_end());
            assert!(reason.ends_with(&shown), "{reason}");
        }
        assert!(parse(b"\x15\x03\x01").unwrap_err().ends_with(r#""\x15\x03\x01""#));
        let long = parse(&[b'x'; 100]).unwrap_err();
        assert!(long.ends_with(&format!("\"{}...\"", "x".repeat(40))), "{long}");
    }

    #[test]
    fn a_line_without_end_is_given_up_at_the_limit() {
        let mut line = b"HTTP/1.1 200 ".to_vec();
        line.resize(LIMIT - 1, b'a');
        assert_eq!(parse(&line), Ok(None));
        line.push(b'a');
        assert!(parse(&line).unwrap_err().contains("within 1024 bytes"));
    }
}
