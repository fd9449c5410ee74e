//! Where frames begin in the bytes of a connection (RFC 9113, 4.1), however those come.

use super::PREFACE;

/// Types of frames (RFC 9113, 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;

/// Bytes before a frame's payload.
const HEAD: usize = 9;
/// The flag of a payload that is padded, and the most bytes that are not content in one.
const PADDED: u8 = 8;
const MAX_PADDING: u32 = 256;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    flags: u8,
    /// Bytes of its payload.
    pub length: u32,
}

impl Frame {
    /// Whether it surely has some of a body.
    pub const fn has_body(self) -> bool {
        let least = if self.flags & PADDED == 0 { 0 } else { MAX_PADDING };
        self.kind == DATA && self.length > least
    }
}

/// Follows frames by their lengths; nothing of them is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    come: u8,
    /// Bytes to come before the next head.
    left: u32,
}

impl Frames {
    /// Those of a client, which begins with the preface.
    pub fn behind_preface() -> Self {
        Self { left: u32::try_from(PREFACE.len()).unwrap_or_default(), ..Self::default() }
    }

    /// The type of the frame whose payload comes next, if a payload does.
    pub fn within(&self) -> Option<u8> {
        (self.left > 0).then_some(self.head[3])
    }

    /// Follows what comes next, and tells of each frame when its head is whole.
    pub fn follow(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= u32::try_from(skipped).unwrap_or(self.left);
            bytes = &bytes[skipped..];
            let come = usize::from(self.come);
            let taken = (HEAD - come).min(bytes.len());
            self.head[come..come + taken].copy_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            self.come = u8::try_from(come + taken).unwrap_or_default();
            if come + taken == HEAD {
                let [a, b, c, kind, flags, ..] = self.head;
                self.left = u32::from_be_bytes([0, a, b, c]);
                self.come = 0;
                tell(Frame { kind, flags, length: self.left });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_the_same_however_they_come() {
        let mut bytes = PREFACE.to_vec();
        // SETTINGS without a payload, DATA of five bytes and of padding only, PING, and one of 300 bytes.
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend(*b"\x00\x00\x05\x00\x01\x00\x00\x00\x01hello");
        bytes.extend(*b"\x00\x00\x01\x00\x08\x00\x00\x00\x01\x00");
        bytes.extend(*b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678");
        bytes.extend([0, 1, 44, 0, 8, 0, 0, 0, 1]);
        bytes.extend([0; 300]);
        for step in 1..=bytes.len() {
            let (mut frames, mut told) = (Frames::behind_preface(), Vec::new());
            for part in bytes.chunks(step) {
                frames
                    .follow(part, |frame| told.push((frame.kind, frame.length, frame.has_body())));
            }
            let expected =
                [(4, 0, false), (0, 5, true), (0, 1, false), (6, 8, false), (0, 300, true)];
            assert_eq!(told, expected, "by {step}");
            assert_eq!(frames.within(), None);
        }
    }

    #[test]
    fn it_knows_in_whose_payload_it_is() {
        let mut frames = Frames::default();
        frames.follow(b"\x00\x00\x05\x00\x01\x00\x00\x00\x01he", |_| {});
        assert_eq!(frames.within(), Some(DATA));
        frames.follow(b"llo\x00\x00", |_| {});
        assert_eq!(frames.within(), None);
    }
}
