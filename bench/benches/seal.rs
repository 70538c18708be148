//! Sealing and opening a field, against the bare cryptographic work on the same sizes in the same run.
//!
//! The bare work is one HKDF-Expand to 64 bytes with a place of usual length and one AES-256-GCM over the padded value:
//! what format UV1 prescribes, without its header, its buffers, its randomness and its wiping.

use std::hint::black_box;
use std::time::Duration;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use criterion::{BenchmarkGroup, Criterion, Throughput};
use hkdf::Hkdf;
use sha2::Sha256;
use vault_bench::cpu::CpuTime;
use vault_bench::seeded::Seeded;
use vault_core::crypto::field::{self, HEADER_LEN, NONCE_LEN, Place, SealedField};
use vault_core::crypto::{Dek, Random};
use vault_core::ids::SubjectUuid;

const PLACE: Place<'static> = Place { subject: SubjectUuid([7; 16]), compartment: "profile", field: "home_address" };
/// Bytes of a value, and of the same value padded.
const SIZES: [(usize, usize); 3] = [(16, 32), (64, 128), (4096, 5120)];

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for (len, padded) in SIZES {
        let mut group = criterion.benchmark_group(format!("field/{len}B"));
        group.throughput(Throughput::Bytes(len as u64));
        vault(&mut group, len);
        bare(&mut group, padded);
        group.finish();
    }
    criterion.final_summary();
}

fn value(len: usize) -> Vec<u8> {
    let mut seeded = Seeded::new(1);
    (0..len).map(|_| seeded.number() as u8).collect()
}

fn vault(group: &mut BenchmarkGroup<'_, CpuTime>, len: usize) {
    let dek = Dek::draw(&mut Random::for_keys(1));
    let value = value(len);
    group.bench_function("seal", |bencher| {
        bencher.iter(|| {
            // As a lone field takes it: one system call for its nonce.
            let mut random = Random::new(NONCE_LEN);
            field::seal(&dek, 1, 1, &PLACE, black_box(&value), &mut random)
        });
    });
    group.bench_function("seal, one of a row of 6", |bencher| {
        let mut left = 0;
        let mut random = Random::new(0);
        bencher.iter(|| {
            if left == 0 {
                (left, random) = (7, Random::new(7 * NONCE_LEN));
            }
            left -= 1;
            field::seal(&dek, 1, 1, &PLACE, black_box(&value), &mut random)
        });
    });
    let sealed = field::seal(&dek, 1, 1, &PLACE, &value, &mut Random::new(NONCE_LEN));
    group.bench_function("open", |bencher| {
        bencher.iter(|| {
            let field = SealedField::parse(black_box(&sealed)).expect("it was sealed above");
            field.open(&dek, &PLACE).expect("by the same key")
        });
    });
}

fn bare(group: &mut BenchmarkGroup<'_, CpuTime>, padded: usize) {
    let mut seeded = Seeded::new(2);
    let (prk, info, nonce) = (seeded.bytes::<32>(), seeded.bytes::<99>(), seeded.bytes::<12>());
    let header = seeded.bytes::<HEADER_LEN>();
    let mut buffer = value(padded);
    let cipher = |info: &[u8]| {
        let mut keys = [0; 64];
        Hkdf::<Sha256>::from_prk(&prk).expect("32 bytes").expand(info, &mut keys).expect("64 bytes are few");
        Aes256Gcm::new_from_slice(&keys[..32]).expect("32 bytes")
    };
    let mut seal = |buffer: &mut Vec<u8>| -> Tag {
        cipher(black_box(&info))
            .encrypt_inout_detached(&Nonce::from(nonce), &header, buffer.as_mut_slice().into())
            .expect("a few KiB are below the limit")
    };
    group.bench_function("bare seal", |bencher| bencher.iter(|| seal(&mut buffer)));
    let tag = seal(&mut buffer);
    let sealed = buffer.clone();
    group.bench_function("bare open", |bencher| {
        bencher.iter(|| {
            // Opening happens in place, so each time starts from the ciphertext: one copy, as any reader needs.
            buffer.copy_from_slice(&sealed);
            cipher(black_box(&info))
                .decrypt_inout_detached(&Nonce::from(nonce), &header, buffer.as_mut_slice().into(), &tag)
                .expect("it was sealed above");
        });
    });
}
