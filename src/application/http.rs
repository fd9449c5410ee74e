//! HTTP requests: what a backend is told of them, and clients of the answers. Nothing here waits or
//! dials.

mod answer;
mod exchange;
mod flow;
mod forward;
mod hops;
mod stream;

pub use answer::{Answer, Said};
pub use exchange::{Arrived, Asked, Asker, Exchange, Out, Turn, read};
pub use flow::Flow;
pub use forward::{
    About, Passed, answer_head, end_to_end, is_field_for_trailers, request_head, request_line,
};
pub use hops::Hops;
pub use stream::{Stream, cookies, request_of};
