//! Tells the test programs where libtorch lies, as daemon/build.rs does for the binaries.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-changed=build.rs");
    let relative = ["$ORIGIN/../lib/ptv2", "$ORIGIN/../libtorch/lib", "$ORIGIN/../../libtorch/lib"];
    for path in relative {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{path}");
    }
    // Installed binaries find their own folder first; this serves an own LIBTORCH elsewhere.
    if let Some(libtorch) = std::env::var_os("LIBTORCH") {
        let lib = std::path::Path::new(&libtorch).join("lib");
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}
