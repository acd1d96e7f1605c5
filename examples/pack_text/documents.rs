//! Files as documents.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// What is packed where no file is named.
const DEFAULT: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "core/src/lib.rs",
    "core/src/plan.rs",
    "core/src/segment.rs",
];

/// Documents laid end to end; a token is a byte.
pub(crate) struct Documents {
    pub(crate) tokens: Vec<u8>,
    pub(crate) lengths: Vec<u32>,
}

impl Documents {
    /// Reads the files in order; none means the project's own.
    pub(crate) fn read(files: &[PathBuf]) -> Result<Self> {
        let mut documents = Self { tokens: Vec::new(), lengths: Vec::new() };
        if files.is_empty() {
            let project = Path::new(env!("CARGO_MANIFEST_DIR"));
            DEFAULT.iter().try_for_each(|file| documents.push(&project.join(file)))?;
        } else {
            files.iter().try_for_each(|file| documents.push(file))?;
        }
        Ok(documents)
    }

    fn push(&mut self, file: &Path) -> Result<()> {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let length = u32::try_from(bytes.len()).with_context(|| format!("{} is too long", file.display()))?;
        self.lengths.push(length);
        self.tokens.extend(bytes);
        Ok(())
    }
}
