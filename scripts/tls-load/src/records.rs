//! What a download carries, read off its records' headers (RFC 8446, 5.2) without decrypting it.

const HEADER: usize = 5;
const APPLICATION_DATA: u8 = 23;
/// The type within a record, and the tag of its cipher.
const OVERHEAD: u64 = 1 + 16;

/// Counts records, however they are cut.
#[derive(Default)]
pub struct Records {
    header: Vec<u8>,
    body_left: usize,
    count: u64,
    bytes: u64,
}

impl Records {
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What is in the records: of the last one everything, though it may not have come whole.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let passed = self.body_left.min(bytes.len());
                self.body_left -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let [kind, _, _, high, low] = self.header[..] {
                if kind != APPLICATION_DATA {
                    return Err(format!("a record of type {kind} in the download"));
                }
                self.body_left = u16::from_be_bytes([high, low]).into();
                self.count += 1;
                self.bytes += (self.body_left as u64).saturating_sub(OVERHEAD);
                self.header.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{OVERHEAD, Records};

    fn record(kind: u8, length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        [vec![kind, 3, 3, high, low], vec![0; length.into()]].concat()
    }

    #[test]
    fn records_are_counted_however_they_are_cut() {
        let stream = [record(23, 16401), record(23, 18), record(23, 1017)].concat();
        for piece in [1, 4, 5, 6, 1000, stream.len()] {
            let mut records = Records::default();
            for cut in stream.chunks(piece) {
                records.take(cut).expect("data");
            }
            assert_eq!((records.count(), records.bytes()), (3, 16401 + 18 + 1017 - 3 * OVERHEAD));
        }
    }

    #[test]
    fn anything_but_data_is_an_error() {
        assert!(Records::default().take(&record(21, 19)).is_err());
    }
}
