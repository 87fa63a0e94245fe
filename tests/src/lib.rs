//! Tests of ptv2: numbers against references, and the real binaries end to end.

#![cfg_attr(test, expect(clippy::float_cmp, reason = "tests of exact values compare exactly"))]

#[cfg(test)]
mod attack;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod e2e;
#[cfg(test)]
mod gpu;
#[cfg(test)]
mod methods;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod parity_backbones;
#[cfg(test)]
mod parity_bf16;
#[cfg(test)]
mod parity_device;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod slurm;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod superglue;
