//! Tests of ptv2, one module a subject: numbers against references, and the real binaries end to end.

#![cfg_attr(test, expect(clippy::float_cmp, reason = "tests of exact values compare exactly"))]

#[cfg(test)]
mod client;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod one_hash;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod real_data;
#[cfg(test)]
mod wire;
