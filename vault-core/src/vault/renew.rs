//! Another META key, along with another root: who had the header from before opens nothing that lies under it from then on.
//!
//! META itself is written with every commit. The rows of the outbox and of evidence are few, but they may lie there for a
//! while, so those are sealed anew in the same batch.

use super::{evidence, outbox};
use crate::store::{Row, Store, StoreError};
use crate::trie::Header;

/// Bytes that are sealed anew in one batch at most.
const BYTES_MAX: usize = 64 << 20;
/// Rows that are read at once.
const SCAN: usize = 256;

/// The rows under the META key, but for those that go; none if they are too many, so that the key has to stay.
///
/// # Errors
/// The store's.
pub(super) async fn rows(store: &dyn Store, gone: &[Vec<u8>]) -> Result<Option<Vec<Row>>, StoreError> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for prefix in [outbox::PREFIX, evidence::PREFIX] {
        let mut start = vec![prefix];
        loop {
            let part = store.scan(&start, Some(&[prefix + 1]), SCAN).await?;
            let Some((last, _)) = part.last() else { break };
            start = [&last[..], &[0]].concat();
            bytes += part.iter().map(|(_, value)| value.len()).sum::<usize>();
            if bytes > BYTES_MAX {
                tracing::warn!(
                    "the key of META, of the outbox and of evidence stays as it is: more than {BYTES_MAX} bytes lie under \
                     it, which wait for the audit log or for a retained root to go. Rotate `root` again after that"
                );
                return Ok(None);
            }
            found.extend(part.into_iter().filter(|(key, _)| !gone.contains(key)));
        }
    }
    Ok(Some(found))
}

/// The row as it is from now on; none if it is damaged, so that it stays as it is and is told by who needs it.
pub(super) fn seal_anew(headers: (&Header, &Header), (key, sealed): Row) -> Option<Row> {
    let again = match key.first() {
        Some(&outbox::PREFIX) => outbox::seal_anew(headers, &key, &sealed),
        _ => evidence::seal_anew(headers, &key, &sealed),
    };
    again.ok().map(|value| (key, value))
}
