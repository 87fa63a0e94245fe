//! What jobs read from outside: files beneath folders, and what lies in stores, mirrored on disk.
//!
//! A file is opened beneath a handle on its root ([`Folder`]), so nothing that is swapped meanwhile leads
//! out of it. What a job names by the URL of a store is fetched into a [`Cache`] by hash ([`Mirror`]),
//! and read from there as any folder is.

pub mod address;
mod beneath;
mod cache;
mod folder;
mod mirror;
#[cfg(test)]
mod tests;

pub use address::StoreUrl;
pub use beneath::{Beneath, Opened, Refused, State};
pub use cache::{Cache, Files};
pub use folder::Folder;
pub use mirror::{Mirror, Mirrored, Needs, Wanted, store_at};
