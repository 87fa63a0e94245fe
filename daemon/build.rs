//! Tells the binaries where libtorch lies: beside an installed binary, beside the target folder, and
//! where it was at compile time. Compiles the switches of torch that have no form in C.

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
    if std::env::var_os("CARGO_FEATURE_TORCH").is_some() {
        compile_by_torch("src/cuda/settings.cpp", "ptv2_settings");
        // Tests call it; a program that does not is linked without it.
        compile_by_torch("src/train/memory/counted.cpp", "ptv2_counted");
        compile_masks();
    }
}

/// The kernel of dropout's masks, for the processor: its tests run it. A program that does not call it is linked
/// without it.
fn compile_masks() {
    const SOURCE: &str = "src/cuda/masks.c";
    println!("cargo::rerun-if-changed={SOURCE}");
    cc::Build::new().std("c99").file(SOURCE).compile("ptv2_masks");
}

/// Against the headers that torch-sys is compiled against: LIBTORCH's, or those of a libtorch in /usr.
fn compile_by_torch(source: &str, library: &str) {
    println!("cargo::rerun-if-changed={source}");
    let libtorch = std::env::var_os("LIBTORCH").unwrap_or_else(|| "/usr".into());
    let include = std::path::Path::new(&libtorch).join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(include)
        .file(source)
        .compile(library);
}
