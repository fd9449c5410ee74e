//! Prints the settings table as it stands in the README:
//! `cargo run --example readme_table`

fn main() {
    print!("{}", edgeproxy::config::readme_table());
}
