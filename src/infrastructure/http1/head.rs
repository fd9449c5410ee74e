//! Where a head ends: its lines end in CR LF, all of them, and nothing in it is a control character.

use super::Bad;

/// The most fields in a head.
pub const MAX_HEADERS: usize = 128;

/// What is found of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is not whole. The next look may begin here.
    More(usize),
    /// It has so many bytes, the empty line at its end included.
    Whole(usize),
    /// It is none.
    Bad(Bad),
}

/// Looks for the end of the head that `bytes` begin with. What is before `from` has been looked at: it
/// is what [`Found::More`] said.
#[must_use]
pub fn find(bytes: &[u8], from: usize) -> Found {
    // Where a line ends is told by the bytes before it.
    let mut at = from;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\r' => match bytes.get(at + 1) {
                None => return Found::More(at),
                Some(b'\n') if at >= 2 && bytes[at - 2..at] == *b"\r\n" => {
                    return Found::Whole(at + 2);
                }
                Some(b'\n') if at == 0 => {
                    return Found::Bad(Bad::request("an empty line before the head"));
                }
                Some(b'\n') => match bytes.get(at + 2) {
                    None => return Found::More(at),
                    Some(b' ' | b'\t') => {
                        return Found::Bad(Bad::request("a field folded over two lines"));
                    }
                    Some(_) => at += 2,
                },
                Some(_) => return Found::Bad(Bad::request("CR without LF")),
            },
            b'\n' => return Found::Bad(Bad::request("LF without CR")),
            b'\t' | b' '..=b'~' | 0x80.. => at += plain(&bytes[at..]),
            _ => return Found::Bad(Bad::request("a control character")),
        }
    }
    Found::More(at)
}

/// How many bytes are neither control characters nor the end of a line, at least one: looked at in blocks, which
/// the compiler makes one comparison of, and in the first that has another byte by byte.
fn plain(bytes: &[u8]) -> usize {
    const BLOCK: usize = 16;
    let is_odd = |byte: &u8| *byte < b' ' || *byte == 0x7f;
    let is_plain =
        |block: &&[u8; BLOCK]| block.iter().fold(0, |any, byte| any | u8::from(is_odd(byte))) == 0;
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let whole = blocks.iter().take_while(is_plain).count() * BLOCK;
    let rest = bytes[whole..].iter().take_while(|byte| !is_odd(byte)).count();
    (whole + rest).max(1)
}
