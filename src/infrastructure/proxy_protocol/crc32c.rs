//! CRC32C, the checksum of a version 2 header (RFC 9260, appendix A; RFC 3720, 12.1).

/// The polynomial of Castagnoli, its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

static TABLE: [u32; 256] = table();

/// The checksum of `parts`, one after the other.
pub(super) fn of(parts: &[&[u8]]) -> u32 {
    let step = |crc: u32, byte: &u8| TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8);
    !parts.iter().copied().flatten().fold(!0, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn the_published_examples_have_their_sums() {
        let ascending: Vec<u8> = (0..32).collect();
        // The first is everybody's check value, the others are in RFC 3720, B.4, low byte first.
        for (bytes, sum) in [
            (&b"123456789"[..], 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
        ] {
            assert_eq!(of(&[bytes]), sum, "{bytes:?}");
            assert_eq!(of(&[&bytes[..5], &[], &bytes[5..]]), sum, "{bytes:?} in parts");
        }
    }
}
