//! Both versions: what the specification says, case by case, what `HAProxy` sends, and whatever else
//! may come.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

/// The specification's example (2.1), with the request behind it.
const EXAMPLE: &[u8] =
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n";

/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a";

/// 192.0.2.1:56324 to 198.51.100.7:443.
const V4: &[u8] = b"\xc0\x00\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb";

fn proxied(source: &str, destination: &str) -> Header {
    Header::Proxied { source: address(source), destination: address(destination) }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A header of version 2.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// A TCP over IPv4 header with these extensions.
fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
    v2(0x21, 0x11, &[V4, &extensions.concat()].concat())
}

/// Reads a header and nothing behind it.
fn whole(bytes: &[u8]) -> Result<Header, Wrong> {
    match read(bytes) {
        Outcome::Done { header, length } => {
            assert_eq!(length, bytes.len());
            Ok(header)
        }
        Outcome::Wrong(wrong) => Err(wrong),
        Outcome::More { need } => panic!("{need} bytes are asked for"),
    }
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

fn written_v1(header: &Header) -> String {
    let mut out = Vec::new();
    header.write_v1(&mut out);
    String::from_utf8(out).unwrap()
}

fn written_v2(header: &Header, tlvs: &Tlvs<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    header.write_v2(tlvs, &mut out).unwrap();
    out
}

#[test]
fn the_line_of_the_specification_is_read_and_the_request_behind_it_left() {
    let header = proxied("192.168.0.1:56324", "192.168.0.11:443");
    assert_eq!(read(EXAMPLE), Outcome::Done { header, length: 47 });
}

#[test]
fn the_longest_lines_are_read() {
    let v6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let all = proxied("255.255.255.255:65535", "255.255.255.255:65535");
    let all_v6 = proxied(&format!("[{v6}]:65535"), &format!("[{v6}]:65535"));
    for (line, length, header) in [
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".to_owned(), 56, all),
        (format!("PROXY TCP6 {v6} {v6} 65535 65535\r\n"), 104, all_v6),
        ("PROXY UNKNOWN\r\n".to_owned(), 15, Header::Unknown),
        (format!("PROXY UNKNOWN {v6} {v6} 65535 65535\r\n"), 107, Header::Unknown),
    ] {
        assert_eq!(line.len(), length, "{line}");
        assert_eq!(whole(line.as_bytes()), Ok(header), "{line}");
    }
}

#[test]
fn lines_are_read_as_they_may_be_written() {
    for (line, header) in [
        ("TCP4 0.0.0.0 1.2.3.4 0 1", proxied("0.0.0.0:0", "1.2.3.4:1")),
        ("TCP6 :: ::1 0 65535", proxied("[::]:0", "[::1]:65535")),
        (
            "TCP6 2001:DB8::A 2001:db8:0:0:0:0:0:b 1 2",
            proxied("[2001:db8::a]:1", "[2001:db8::b]:2"),
        ),
        // HAProxy writes a mapped address with dots.
        ("TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2", proxied("192.0.2.1:1", "192.0.2.2:2")),
        ("TCP6 ::ffff:192.0.2.1 2001:db8::b 1 2", proxied("192.0.2.1:1", "[2001:db8::b]:2")),
        // Whatever follows UNKNOWN is not looked at.
        ("UNKNOWN \0\u{e9} TCP4  ", Header::Unknown),
    ] {
        assert_eq!(whole(format!("PROXY {line}\r\n").as_bytes()), Ok(header), "{line}");
    }
}

#[test]
fn a_line_that_is_not_exactly_one_is_refused() {
    for (line, wrong) in [
        ("PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n", Wrong::Transport),
        ("PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n", Wrong::Transport),
        ("PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n", Wrong::Transport),
        ("PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", Wrong::Transport),
        ("PROXY TCP4\r\n", Wrong::Transport),
        ("PROXY UNKNOWNS\r\n", Wrong::Transport),
        ("PROXY \r\n", Wrong::Transport),
        ("PROXY\r\n", Wrong::NotProxy),
        ("PROXIED TCP4", Wrong::NotProxy),
        ("POST / HTTP/1.1\r\n", Wrong::NotProxy),
        ("proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n", Wrong::NotProxy),
        (" PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", Wrong::NotProxy),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n", Wrong::LineEnd),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rX", Wrong::LineEnd),
        ("PROXY UNKNOWN\rGET / HTTP/1.1\r\n", Wrong::LineEnd),
        ("PROXY UNKNOWN x\nGET / HTTP/1.1\r\n", Wrong::LineEnd),
        ("PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n", Wrong::Address),
        ("PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n", Wrong::Address),
        ("PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n", Wrong::Address),
        ("PROXY TCP4 1.1.1.0x1 2.2.2.2 1 2\r\n", Wrong::Address),
        ("PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n", Wrong::Address),
        ("PROXY TCP4 ::1 ::2 1 2\r\n", Wrong::Address),
        ("PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n", Wrong::Address),
        ("PROXY TCP6 1::2::3 ::1 1 2\r\n", Wrong::Address),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", Wrong::Address),
        ("PROXY TCP6 [::1] ::1 1 2\r\n", Wrong::Address),
        ("PROXY TCP6 12345::1 ::1 1 2\r\n", Wrong::Address),
        ("PROXY TCP4 1.1.1.1\r\n", Wrong::Address),
        ("PROXY TCP4 \u{663}.1.1.1 2.2.2.2 1 2\r\n", Wrong::Address),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", Wrong::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", Wrong::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n", Wrong::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1  2\r\n", Wrong::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", Wrong::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n", Wrong::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 00\r\n", Wrong::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n", Wrong::Port),
    ] {
        assert_eq!(read(line.as_bytes()), Outcome::Wrong(wrong), "{line:?}");
    }
}

#[test]
fn a_line_of_more_than_107_bytes_is_refused_as_soon_as_it_cannot_end() {
    let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
    assert_eq!(read(&long.as_bytes()[..105]), Outcome::More { need: 107 });
    assert_eq!(read(&long.as_bytes()[..106]), Outcome::Wrong(Wrong::LineTooLong));
    let ends = |before: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(before));
    assert_eq!(whole(ends(91).as_bytes()), Ok(Header::Unknown));
    assert_eq!(read(ends(92).as_bytes()), Outcome::Wrong(Wrong::LineTooLong));
}

#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    for (bytes, wrong) in [
        (&b"G"[..], Wrong::NotProxy),
        (b"\x16", Wrong::NotProxy),
        (b"PRI", Wrong::NotProxy),
        (b"PROXY TX", Wrong::Transport),
        (b"\r\n\r\n\r", Wrong::NotProxy),
        (b"\r\n\r\n\0\r\nQUIT\n\x11", Wrong::Version(1)),
        (b"\r\n\r\n\0\r\nQUIT\n\x30", Wrong::Version(3)),
        (b"\r\n\r\n\0\r\nQUIT\n\x22", Wrong::Command(2)),
        (b"\r\n\r\n\0\r\nQUIT\n\x2f", Wrong::Command(15)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x41", Wrong::Family(0x41)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x13", Wrong::Family(0x13)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\xff", Wrong::Family(0xff)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xf1", Wrong::TooLong(4097)),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\xff\xff", Wrong::TooLong(65551)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0b", Wrong::TooShort { given: 11, least: 12 }),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x12\x00\x00", Wrong::TooShort { given: 0, least: 12 }),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x23", Wrong::TooShort { given: 35, least: 36 }),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd7", Wrong::TooShort { given: 215, least: 216 }),
    ] {
        let before = &bytes[..bytes.len() - 1];
        assert!(matches!(read(before), Outcome::More { .. }), "{before:?}");
        assert_eq!(read(bytes), Outcome::Wrong(wrong), "{bytes:?}");
    }
}

#[test]
fn addresses_of_tcp_are_read_from_version_2() {
    let header = proxied("192.0.2.1:56324", "198.51.100.7:443");
    assert_eq!(whole(&v2(0x21, 0x11, V4)), Ok(header));

    let v6 = hex("20010db800000000000000000000000120010db80000000000000000000000021f9001bb");
    assert_eq!(whole(&v2(0x21, 0x21, &v6)), Ok(proxied("[2001:db8::1]:8080", "[2001:db8::2]:443")));

    let mapped = hex("00000000000000000000ffffc000020100000000000000000000ffffc00002021f9001bb");
    assert_eq!(whole(&v2(0x21, 0x21, &mapped)), Ok(proxied("192.0.2.1:8080", "192.0.2.2:443")));
}

#[test]
fn a_check_of_the_proxys_own_is_local_whatever_else_its_header_holds() {
    for (family, block) in
        [(0x00, &b""[..]), (0x00, b"\xff\xff\xff"), (0x11, V4), (0x11, b""), (0xff, b"anything")]
    {
        assert_eq!(whole(&v2(0x20, family, block)), Ok(Header::Local), "{family:#x}, {block:?}");
    }
}

#[test]
fn what_is_not_tcp_is_unknown_and_its_block_is_passed_over() {
    let unix = [0; 216];
    for (family, block) in [
        (0x00, &b""[..]),
        (0x00, b"\x01\xff\xff is no extension where none is known to be"),
        (0x01, b"?"),
        (0x02, b""),
        (0x10, b"?"),
        (0x20, b""),
        (0x30, b""),
        (0x12, V4),
        (0x22, &unix[..36]),
        (0x31, &unix),
        (0x32, &unix),
    ] {
        let bytes = [&v2(0x21, family, block)[..], b"and the client's"].concat();
        let length = 16 + block.len();
        assert_eq!(read(&bytes), Outcome::Done { header: Header::Unknown, length }, "{family:#x}");
    }
}

#[test]
fn extensions_are_passed_over_when_they_are_whole() {
    let header = Ok(proxied("192.0.2.1:56324", "198.51.100.7:443"));
    assert_eq!(whole(&with(&[tlv(0x04, b""), tlv(0x04, &[0; 9]), tlv(0xe7, b"mine")])), header);
    assert_eq!(whole(&with(&[tlv(0x05, &[7; 128]), tlv(0x30, b"netns")])), header);
    assert_eq!(whole(&with(&[tlv(0x04, &[0; 4096 - 16 - 12 - 3])])), header);
    for (kind, bytes) in [
        (0x01, &b"\x01"[..]),
        (0x01, b"\x01\x00"),
        (0x01, b"\x01\x00\x03h2"),
        (0x20, b"\x20\xff\xff"),
        (0x00, b"\x04\x00\x00\x00"),
    ] {
        assert_eq!(whole(&with(&[bytes.to_vec()])), Err(Wrong::Extension(kind)), "{bytes:?}");
    }
    assert_eq!(whole(&with(&[tlv(0x05, &[7; 129])])), Err(Wrong::Extension(0x05)));
    assert_eq!(whole(&with(&[tlv(0x03, b"abc")])), Err(Wrong::Extension(0x03)));
    assert_eq!(whole(&with(&[tlv(0x03, b"abcde")])), Err(Wrong::Extension(0x03)));
}

/// What `HAProxy` 2.6 sends with `send-proxy`, `send-proxy-v2` and
/// `proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c`.
const HAPROXY: [(&str, &str, &str); 5] = [
    (
        "50524f58592054435034203132372e302e302e31203132372e302e302e312036303236302031373030310d0a",
        "127.0.0.1:60260",
        "127.0.0.1:17001",
    ),
    (
        "50524f58592054435036203a3a31203a3a312034353639382031373030340d0a",
        "[::1]:45698",
        "[::1]:17004",
    ),
    (
        "0d0a0d0a000d0a515549540a2111000c7f0000017f000001b678426a",
        "127.0.0.1:46712",
        "127.0.0.1:17002",
    ),
    (
        "0d0a0d0a000d0a515549540a2121002b00000000000000000000000000000001000000000000000000000000\
         00000001d4cc426d03000443651e38",
        "[::1]:54476",
        "[::1]:17005",
    ),
    (
        "0d0a0d0a000d0a515549540a211100567f0000017f000001bc62426b030004823e39db01000268320200107368\
         6f702e6578616d706c652e6f72672000280100000000210007544c5376312e33230016544c535f4145535f3235\
         365f47434d5f534841333834",
        "127.0.0.1:48226",
        "127.0.0.1:17003",
    ),
];

#[test]
fn what_haproxy_sends_is_read() {
    for (bytes, source, destination) in HAPROXY {
        assert_eq!(whole(&hex(bytes)), Ok(proxied(source, destination)), "{bytes}");
    }
}

#[test]
fn a_header_with_another_checksum_than_its_own_is_refused() {
    for (bytes, ..) in &HAPROXY[3..] {
        let bytes = hex(bytes);
        // The last byte belongs to the checksum of the one and to the other's cipher suite.
        for at in [16, 40, bytes.len() - 1] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(read(&bytes), Outcome::Wrong(Wrong::Checksum), "byte {at}");
        }
    }
    let header = proxied("192.0.2.1:56324", "198.51.100.7:443");
    let once = written_v2(&header, &Tlvs { checksum: true, ..Tlvs::default() });
    let twice = with(&[once[28..].to_vec(), once[28..].to_vec()]);
    assert_eq!(read(&twice), Outcome::Wrong(Wrong::Checksum));
}

#[test]
fn version_1_is_written_as_the_specification_has_it() {
    for (source, destination, line) in [
        ("192.168.0.1:56324", "192.168.0.11:443", "TCP4 192.168.0.1 192.168.0.11 56324 443"),
        ("[2001:db8::1]:1", "[::1]:65535", "TCP6 2001:db8::1 ::1 1 65535"),
        ("[::ffff:192.0.2.1]:1", "192.0.2.2:2", "TCP4 192.0.2.1 192.0.2.2 1 2"),
        ("192.0.2.1:1", "[2001:db8::1]:2", "TCP6 ::ffff:c000:201 2001:db8::1 1 2"),
        ("[2001:db8::1]:2", "0.0.0.0:0", "TCP6 2001:db8::1 ::ffff:0:0 2 0"),
    ] {
        assert_eq!(written_v1(&proxied(source, destination)), format!("PROXY {line}\r\n"));
    }
    for header in [Header::Local, Header::Unknown] {
        assert_eq!(written_v1(&header), "PROXY UNKNOWN\r\n");
    }
}

#[test]
fn version_2_is_written_as_the_specification_has_it() {
    let plain = Tlvs::default();
    let header = proxied("192.0.2.1:56324", "198.51.100.7:443");
    assert_eq!(written_v2(&header, &plain), v2(0x21, 0x11, V4));
    let mixed = hex("00000000000000000000ffffc000020120010db800000000000000000000000200010002");
    assert_eq!(
        written_v2(&proxied("192.0.2.1:1", "[2001:db8::2]:2"), &plain),
        v2(0x21, 0x21, &mixed)
    );
    assert_eq!(written_v2(&Header::Local, &plain), v2(0x20, 0x00, b""));
    assert_eq!(written_v2(&Header::Unknown, &plain), v2(0x21, 0x00, b""));
}

#[test]
fn what_is_known_of_the_clients_tls_is_written() {
    let header = proxied("192.0.2.1:56324", "198.51.100.7:443");
    let tls = Tls {
        version: "TLSv1.3",
        cipher: Some("TLS_AES_128_GCM_SHA256"),
        common_name: Some("example.com"),
        certificate: ClientCertificate::Presented { verify: 0 },
    };
    let tlvs = Tlvs {
        alpn: Some(b"h2"),
        authority: Some("www.example.org"),
        tls: Some(tls),
        checksum: false,
    };
    let sub = [
        b"\x07\0\0\0\0".to_vec(),
        tlv(0x21, b"TLSv1.3"),
        tlv(0x22, b"example.com"),
        tlv(0x23, b"TLS_AES_128_GCM_SHA256"),
    ];
    let expected =
        with(&[tlv(0x01, b"h2"), tlv(0x02, b"www.example.org"), tlv(0x20, &sub.concat())]);
    assert_eq!(written_v2(&header, &tlvs), expected);

    for (certificate, flags) in [
        (ClientCertificate::Absent, b"\x01\0\0\0\x01"),
        (ClientCertificate::Resumed { verify: 0 }, b"\x05\0\0\0\0"),
        (ClientCertificate::Presented { verify: 18 }, b"\x07\0\0\0\x12"),
    ] {
        let tls = Tls { version: "TLSv1.2", cipher: None, common_name: None, certificate };
        let tlvs = Tlvs { tls: Some(tls), ..Tlvs::default() };
        let expected = with(&[tlv(0x20, &[&flags[..], &tlv(0x21, b"TLSv1.2")].concat())]);
        assert_eq!(written_v2(&header, &tlvs), expected, "{certificate:?}");
    }
}

#[test]
fn a_checksum_is_written_as_haproxy_writes_it() {
    let (bytes, source, destination) = HAPROXY[3];
    let tlvs = Tlvs { checksum: true, ..Tlvs::default() };
    assert_eq!(written_v2(&proxied(source, destination), &tlvs), hex(bytes));
}

#[test]
fn a_header_is_appended_or_it_is_too_long_and_nothing_is() {
    let header = proxied("192.0.2.1:1", "192.0.2.2:2");
    let room = MAX_LENGTH - 16 - 12 - 3;
    let mut out = b"before".to_vec();
    let long = vec![b'x'; room];
    let tlvs = Tlvs { alpn: Some(&long), ..Tlvs::default() };
    assert_eq!(header.write_v2(&tlvs, &mut out), Ok(()));
    assert_eq!(out.len(), 6 + MAX_LENGTH);
    assert_eq!(whole(&out[6..]), Ok(header));

    for length in [room + 1, 70_000] {
        let mut out = b"before".to_vec();
        let long = "x".repeat(length);
        let tlvs = Tlvs { authority: Some(&long), ..Tlvs::default() };
        assert_eq!(header.write_v2(&tlvs, &mut out), Err(TooLong(length + 16 + 12 + 3)));
        assert_eq!(out, b"before");
    }
    header.write_v1(&mut out);
    assert!(out.ends_with(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"));
}

#[test]
fn nothing_is_allocated_to_read_or_to_write_where_there_is_room() {
    let mut out = Vec::with_capacity(MAX_LENGTH);
    let tlvs = Tlvs { alpn: Some(b"h2"), checksum: true, ..Tlvs::default() };
    let used = allocation_counter::measure(|| {
        let Outcome::Done { header, .. } = read(EXAMPLE) else { panic!("it is a header") };
        header.write_v2(&tlvs, &mut out).unwrap();
        assert!(matches!(read(&out), Outcome::Done { .. }));
        header.write_v1(&mut out);
    });
    assert_eq!(used.count_total, 0);
}

fn headers() -> impl Strategy<Value = Header> {
    let proxied = (any::<SocketAddr>(), any::<SocketAddr>());
    prop_oneof![
        6 => proxied.prop_map(|(source, destination)| {
            Header::proxied(source.ip(), destination.ip(), [source.port(), destination.port()])
        }),
        1 => Just(Header::Local),
        1 => Just(Header::Unknown),
    ]
}

/// Bytes that are a header or nearly one.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let written = (headers(), any::<bool>(), any::<bool>(), "[a-z.]{0,40}").prop_map(
        |(header, version_1, checksum, name)| {
            let mut out = Vec::new();
            if version_1 {
                header.write_v1(&mut out);
            } else {
                let tlvs = Tlvs { authority: Some(&name), checksum, ..Tlvs::default() };
                header.write_v2(&tlvs, &mut out).unwrap();
            }
            out.extend_from_slice(name.as_bytes());
            out
        },
    );
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (written, changes).prop_map(|(mut bytes, changes)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// Every way to cut `bytes` once gives the answer of the whole, or asks for what is missing.
fn same_however_it_arrives(bytes: &[u8]) {
    let answer = read(bytes);
    for cut in 0..bytes.len() {
        match (read(&bytes[..cut]), answer) {
            (Outcome::More { need }, Outcome::Done { length, .. }) => {
                assert!(cut < need && need <= length, "{need} at {cut}");
            }
            (Outcome::More { need }, Outcome::More { need: later }) => {
                assert!(cut < need && need <= later, "{need} at {cut}");
            }
            (Outcome::More { need }, Outcome::Wrong(_)) => assert!(cut < need),
            (early, answer) => assert_eq!(early, answer, "at {cut}"),
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(header in headers(), checksum: bool, alpn: Option<[u8; 9]>) {
        let tlvs = Tlvs { alpn: alpn.as_ref().map(<[u8; 9]>::as_slice), checksum, ..Tlvs::default() };
        prop_assert_eq!(whole(&written_v2(&header, &tlvs)), Ok(header));
        let line = written_v1(&header);
        prop_assert!(line.len() <= v1::MAX_LINE);
        let expected = if header == Header::Local { Header::Unknown } else { header };
        prop_assert_eq!(whole(line.as_bytes()), Ok(expected));
    }

    #[test]
    fn a_header_is_read_the_same_however_it_arrives(bytes in nearly()) {
        same_however_it_arrives(&bytes);
    }

    #[test]
    fn random_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        same_however_it_arrives(&bytes);
        same_however_it_arrives(&[SIGNATURE, b"\x21\x11\x00\x40", &bytes].concat());
        same_however_it_arrives(&[b"PROXY TCP4 ", &bytes[..]].concat());
    }
}
