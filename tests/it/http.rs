//! HTTP mode, as strangers see it.

mod answers;
mod corpus;
mod differential;
mod framing;
mod raw;
