//! Writes small `MaxMind` files for tests: IPv4, /24 networks, 24-bit records
//! (<https://maxmind.github.io/MaxMind-DB/>).

/// A value in a record.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(&'static str),
    U16(u16),
    U32(u32),
    U64(u64),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

pub(super) fn map<const N: usize>(entries: [(&'static str, Value); N]) -> Value {
    Value::Map(entries.into())
}

/// A file of type `kind`, built at `built` (seconds since the epoch), with one record for each network.
pub(super) fn mmdb(kind: &'static str, built: u64, networks: &[([u8; 3], Value)]) -> Vec<u8> {
    const SEPARATOR: usize = 16;
    // A tree of nodes; 0 stands for "nothing yet", as no record points back at the root.
    let mut nodes = vec![[0_usize; 2]];
    let mut data = Vec::new();
    let mut leaves = Vec::new();
    for ([a, b, c], value) in networks {
        let prefix = u32::from_be_bytes([0, *a, *b, *c]);
        let mut node = 0;
        for depth in 0..24 {
            let side = (prefix >> (23 - depth) & 1) as usize;
            if depth == 23 {
                leaves.push((node, side, data.len()));
            } else if nodes[node][side] == 0 {
                nodes[node][side] = nodes.len();
                node = nodes.len();
                nodes.push([0; 2]);
            } else {
                node = nodes[node][side];
            }
        }
        encode(value, &mut data);
    }
    let count = nodes.len();
    for record in nodes.iter_mut().flatten().filter(|record| **record == 0) {
        *record = count;
    }
    for (node, side, offset) in leaves {
        nodes[node][side] = count + SEPARATOR + offset;
    }

    let mut file: Vec<u8> =
        nodes.iter().flatten().flat_map(|record| record.to_be_bytes()[5..].to_vec()).collect();
    file.extend([0; SEPARATOR]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    let metadata = map([
        ("binary_format_major_version", Value::U16(2)),
        ("binary_format_minor_version", Value::U16(0)),
        ("build_epoch", Value::U64(built)),
        ("database_type", Value::Text(kind)),
        ("description", map([])),
        ("ip_version", Value::U16(4)),
        ("languages", Value::List(vec![])),
        ("node_count", Value::U32(u32::try_from(count).unwrap())),
        ("record_size", Value::U16(24)),
    ]);
    encode(&metadata, &mut file);
    file
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            control(2, text.len(), out);
            out.extend(text.as_bytes());
        }
        Value::U16(number) => whole(5, &number.to_be_bytes(), out),
        Value::U32(number) => whole(6, &number.to_be_bytes(), out),
        Value::U64(number) => whole(9, &number.to_be_bytes(), out),
        Value::List(list) => {
            control(11, list.len(), out);
            for value in list {
                encode(value, out);
            }
        }
        Value::Map(entries) => {
            control(7, entries.len(), out);
            for (key, value) in entries {
                encode(&Value::Text(key), out);
                encode(value, out);
            }
        }
    }
}

fn whole(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    control(kind, bytes.len(), out);
    out.extend(bytes);
}

/// The byte of type and size; sizes from 29 on and types from 8 on take another one.
fn control(kind: u8, size: usize, out: &mut Vec<u8>) {
    let size = u8::try_from(size).unwrap();
    let field = size.min(29);
    if kind > 7 {
        out.extend([field, kind - 7]);
    } else {
        out.push(kind << 5 | field);
    }
    if size >= 29 {
        out.push(size - 29);
    }
}
