//! How the artifact store is spoken to. The keys are declared where workers and clients read them, too.

pub use ptv2_common::storage::StoreSettings as StorageConfig;
