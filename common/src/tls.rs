//! TLS as all processes speak it.

/// What all of TLS is computed by. To be called once at the start of a process, before anything of it
/// speaks HTTP; a second call does nothing.
pub fn install_provider() {
    drop(rustls::crypto::ring::default_provider().install_default());
}
