//! Finds an installed PyTorch whose libraries for GPUs fit this program, without running Python.

use ptv2_common::error::Explained;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Versions that fit: the libraries are parts of one build.
const VERSION: &str = "2.11.";
/// CUDA that they must be made for.
const CUDA: &str = "13.";
/// The revision that this program's own libtorch is made of.
const REVISION: &str = "70d99e998b4955e0049d13a98d77ae1b14db1f45";
/// Torch's part for GPUs.
const LIBRARY: &str = "libtorch_cuda.so";
/// What to do where there is none.
const INSTALL: &str = "install it by `pip install torch==2.11.0`, or by `make libtorch CUDA=1`; name another folder by --libtorch-cuda";

/// A PyTorch that has libraries for GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PyTorch {
    /// The folder of its libraries.
    pub folder: PathBuf,
    /// Its version, as 2.11.0+cu130.
    pub version: String,
    /// The CUDA that it is made for, as 13.0.
    pub cuda: String,
    /// Whether it is of the very revision that this program's libtorch is.
    pub is_own: bool,
}

impl PyTorch {
    /// The library that is loaded.
    pub(super) fn library(&self) -> PathBuf {
        self.folder.join(LIBRARY)
    }
}

/// What a folder turned out to be.
enum Found {
    /// One that fits.
    Fits(PyTorch),
    /// A PyTorch, but another one; which, in words.
    Other(String),
    /// None.
    Nothing,
}

/// Finds one: `named` and no other, where it is given; else the first that fits of those beside `own`, this
/// program's libtorch, and of the environment's.
///
/// # Errors
/// When none fits; it says what was found instead, or where it was looked for.
pub(super) fn find(
    named: Option<&Path>,
    own: Option<&Path>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<PyTorch, Explained> {
    if let Some(named) = named {
        let wrong = match folders_of(named).iter().map(|folder| look(folder)).find(is_one) {
            Some(Found::Fits(pytorch)) => return Ok(pytorch),
            Some(Found::Other(what)) => what,
            Some(Found::Nothing) | None => format!("{} has no {LIBRARY}", named.display()),
        };
        return Err(refusal(wrong).at("--libtorch-cuda"));
    }
    let mut others = Vec::new();
    let places = places(own, variable);
    for folder in &places {
        match look(folder) {
            Found::Fits(pytorch) => return Ok(pytorch),
            Found::Other(what) => others.push(what),
            Found::Nothing => {}
        }
    }
    if others.is_empty() {
        let looked: Vec<String> =
            places.iter().map(|folder| folder.display().to_string()).collect();
        return Err(refusal("no PyTorch was found".into()).at(looked.join(", ")));
    }
    Err(refusal(others.join("; ")))
}

fn refusal(what: String) -> Explained {
    Explained::new(what).expected(format!("PyTorch {VERSION}x made for CUDA {CUDA}x")).hint(INSTALL)
}

fn is_one(found: &Found) -> bool {
    !matches!(found, Found::Nothing)
}

/// The folders that a path may mean: a library, the folder of libraries, PyTorch's, or the one above it.
fn folders_of(named: &Path) -> Vec<PathBuf> {
    if named.is_file() {
        return named.parent().map(Path::to_owned).into_iter().collect();
    }
    ["", "lib", "cuda", "torch/lib"].iter().map(|below| named.join(below)).collect()
}

/// Where a PyTorch may lie, without doubles, in the order in which it is looked for.
fn places(own: Option<&Path>, variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        own.iter().flat_map(|own| [own.join("cuda"), (*own).into()]).collect();
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let mut packages = Vec::new();
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        packages.extend(variable(name).iter().flat_map(|prefix| packages_of(Path::new(prefix))));
    }
    let path = |name| variable(name).map(|list| std::env::split_paths(&list).collect::<Vec<_>>());
    packages.extend(path("PYTHONPATH").unwrap_or_default());
    let python = path("PATH").unwrap_or_default().into_iter().map(|folder| folder.join("python3"));
    if let Some(python) = python.into_iter().find(|python| python.is_file()) {
        // The environment of this name, then the Python that it was made of.
        let real = python.canonicalize().ok();
        for program in [Some(python), real].into_iter().flatten() {
            let prefix = program.parent().and_then(Path::parent);
            packages.extend(prefix.iter().flat_map(|prefix| packages_of(prefix)));
        }
    }
    let home = variable("HOME").map(|home| Path::new(&home).join(".local"));
    packages.extend(home.iter().flat_map(|home| packages_of(home)));
    all.extend(packages.into_iter().map(|folder| folder.join("torch/lib")));
    let mut seen = BTreeSet::new();
    all.retain(|folder| seen.insert(folder.clone()));
    all
}

/// Folders of Python's packages under a prefix, as Python, Debian and Fedora lay them out.
fn packages_of(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for lib in ["lib", "lib64", "local/lib"] {
        let entries = std::fs::read_dir(prefix.join(lib)).into_iter().flatten().flatten();
        let is_python =
            |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("python3");
        let mut versions: Vec<PathBuf> =
            entries.filter(is_python).map(|entry| entry.path()).collect();
        versions.sort();
        for kind in ["site-packages", "dist-packages"] {
            found
                .extend(versions.iter().map(|version| version.join(kind)).filter(|at| at.is_dir()));
        }
    }
    found
}

/// Looks into a folder of libraries.
fn look(folder: &Path) -> Found {
    let said = [folder.join("version.py"), folder.join("../version.py")];
    let Some(text) = said.iter().find_map(|file| std::fs::read_to_string(file).ok()) else {
        let is_there = folder.join(LIBRARY).is_file();
        let unknown = || format!("{} does not say its version (version.py)", folder.display());
        return if is_there { Found::Other(unknown()) } else { Found::Nothing };
    };
    let version = value(&text, "__version__").unwrap_or_default();
    let at = folder.display();
    if !folder.join(LIBRARY).is_file() {
        // This program's own libtorch says its version, too, and has no such part unless it was asked for.
        let is_python = folder.join("libtorch_python.so").is_file();
        let what = format!("PyTorch {version} in {at} has no libraries for GPUs");
        return if is_python { Found::Other(what) } else { Found::Nothing };
    }
    let Some(cuda) = value(&text, "cuda").filter(|cuda| cuda.starts_with(CUDA)) else {
        let made = value(&text, "cuda").map_or("no CUDA".into(), |cuda| format!("CUDA {cuda}"));
        return Found::Other(format!("PyTorch {version} in {at} is made for {made}"));
    };
    if !version.starts_with(VERSION) {
        return Found::Other(format!("PyTorch {version} in {at} is of another version"));
    }
    let is_own = value(&text, "git_version") == Some(REVISION);
    Found::Fits(PyTorch {
        folder: folder.into(),
        version: version.into(),
        cuda: cuda.into(),
        is_own,
    })
}

/// The text that `version.py` gives to a name.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (kind, value) = rest.split_once('=')?;
        // Nothing, or a type, stands between a name and its value.
        let is_name = kind.trim().is_empty() || kind.starts_with(':');
        let value = value.trim().strip_prefix(['\'', '"'])?;
        is_name.then(|| value.split(['\'', '"']).next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const OWN: &str = "from typing import Optional\n\n__all__ = ['__version__', 'cuda']\n\
        __version__ = '2.11.0+cu130'\ndebug = False\ncuda: Optional[str] = '13.0'\n\
        git_version = '70d99e998b4955e0049d13a98d77ae1b14db1f45'\nhip: Optional[str] = None\n";

    /// A folder of packages with a PyTorch that says this of itself; its folder of libraries.
    fn pytorch(packages: &Path, version: &str, has_cuda: bool) -> PathBuf {
        let lib = packages.join("torch/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(packages.join("torch/version.py"), version).unwrap();
        fs::write(lib.join("libtorch_python.so"), "").unwrap();
        if has_cuda {
            fs::write(lib.join(LIBRARY), "").unwrap();
        }
        lib
    }

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn what_a_version_file_says_is_read() {
        assert_eq!(value(OWN, "__version__"), Some("2.11.0+cu130"));
        assert_eq!(value(OWN, "cuda"), Some("13.0"));
        assert_eq!(value(OWN, "hip"), None);
        assert_eq!(value(OWN, "debug"), None);
        assert_eq!(value(OWN, "git_"), None);
        assert_eq!(value("cuda = \"13.2\"", "cuda"), Some("13.2"));
    }

    #[test]
    fn the_environment_is_searched_in_order() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for name in ["venv", "conda"] {
            pytorch(&at(name).join("lib/python3.11/site-packages"), OWN, true);
        }
        pytorch(&at("module"), OWN, true);
        pytorch(&at("usr/local/lib/python3.12/dist-packages"), OWN, true);
        fs::create_dir_all(at("usr/bin")).unwrap();
        fs::write(at("usr/bin/python3"), "").unwrap();
        pytorch(&at("home/.local/lib/python3.11/site-packages"), OWN, true);
        let text = |name: &str| at(name).display().to_string();
        let mut set = vec![
            ("VIRTUAL_ENV", text("venv"), "venv"),
            ("CONDA_PREFIX", text("conda"), "conda"),
            ("PYTHONPATH", text("module"), "module"),
            ("PATH", format!("/nowhere:{}", text("usr/bin")), "usr"),
            ("HOME", text("home"), "home"),
        ];
        while !set.is_empty() {
            let variable = |name: &str| {
                set.iter().find(|(key, _, _)| *key == name).map(|(_, value, _)| value.clone())
            };
            let found = find(None, None, &variable).unwrap();
            assert!(found.folder.starts_with(at(set[0].2)), "{found:?}");
            assert!(found.is_own && found.cuda == "13.0" && found.version == "2.11.0+cu130");
            set.remove(0);
        }
    }

    #[test]
    fn what_lies_beside_the_own_libtorch_goes_first_and_a_name_before_all() {
        let temp = tempfile::tempdir().unwrap();
        let own = temp.path().join("libtorch/lib");
        fs::create_dir_all(own.join("cuda")).unwrap();
        fs::write(temp.path().join("libtorch/version.py"), OWN).unwrap();
        // As `make libtorch` makes it: it says its version, and has no part for GPUs.
        let error = find(None, Some(&own), &none).unwrap_err();
        assert_eq!(error.what, "no PyTorch was found");
        assert!(error.place.unwrap().contains("libtorch/lib/cuda"));
        fs::write(own.join("cuda/version.py"), OWN).unwrap();
        fs::write(own.join("cuda").join(LIBRARY), "").unwrap();
        let venv = temp.path().join("venv");
        let lib = pytorch(&venv.join("lib/python3.11/site-packages"), OWN, true);
        let variable = |name: &str| (name == "VIRTUAL_ENV").then(|| venv.display().to_string());
        assert_eq!(find(None, Some(&own), &variable).unwrap().folder, own.join("cuda"));
        let torch = lib.parent().unwrap();
        for named in [&lib.join(LIBRARY), &lib, torch, torch.parent().unwrap()] {
            let found = find(Some(named), Some(&own), &none).unwrap();
            assert_eq!(found.folder, lib, "{}", named.display());
        }
    }

    /// What a search says where only this one is there.
    fn refused(version: &str, has_cuda: bool, what: &str) {
        let temp = tempfile::tempdir().unwrap();
        let packages = temp.path().join("lib/python3.11/site-packages");
        let lib = pytorch(&packages, version, has_cuda);
        let prefix = temp.path().display().to_string();
        let variable = |name: &str| (name == "VIRTUAL_ENV").then(|| prefix.clone());
        for named in [None, Some(lib.as_path())] {
            let error = find(named, None, &variable).unwrap_err();
            assert!(error.what.contains(what), "{error:?}");
            assert!(error.what.contains(&lib.display().to_string()), "{error:?}");
            assert_eq!(error.expected.as_deref(), Some("PyTorch 2.11.x made for CUDA 13.x"));
            assert!(error.hint.unwrap().contains("pip install torch==2.11.0"));
            assert_eq!(error.place.as_deref(), named.map(|_| "--libtorch-cuda"));
        }
    }

    #[test]
    fn another_pytorch_is_refused_by_name() {
        refused(&OWN.replace("2.11.0", "2.9.1"), true, "PyTorch 2.9.1+cu130 in");
        refused(&OWN.replace("2.11.0", "2.110.0"), true, "is of another version");
        refused(&OWN.replace("'13.0'", "'12.8'"), true, "is made for CUDA 12.8");
        refused(&OWN.replace("'13.0'", "None"), true, "is made for no CUDA");
        refused(&OWN.replace("+cu130", "+cpu"), false, "2.11.0+cpu");
        refused("", true, "is made for no CUDA");
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(LIBRARY), "").unwrap();
        let error = find(Some(temp.path()), None, &none).unwrap_err();
        assert!(error.what.contains("does not say its version"), "{error:?}");
        let error = find(Some(&temp.path().join("nothing")), None, &none).unwrap_err();
        assert!(error.what.contains("has no libtorch_cuda.so"), "{error:?}");
    }

    #[test]
    fn one_that_fits_is_taken_though_another_lies_before_it() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name).join("lib/python3.11/site-packages");
        pytorch(&at("venv"), &OWN.replace("2.11.0", "2.10.0"), true);
        pytorch(&at("conda"), &OWN.replace("70d9", "0000"), true);
        let variable = |name: &str| {
            let folder = match name {
                "VIRTUAL_ENV" => "venv",
                "CONDA_PREFIX" => "conda",
                _ => return None,
            };
            Some(temp.path().join(folder).display().to_string())
        };
        let found = find(None, None, &variable).unwrap();
        assert!(found.folder.starts_with(at("conda")) && !found.is_own);
    }
}
