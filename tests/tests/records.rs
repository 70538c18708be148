//! Damage below the engine's own checks: any row of the store changed, swapped or gone. Refused, listed, never wrong data.

use std::path::Path;

use serde_json::json;
use vault_core::store::Row;

use crate::harness::{Finished, Rows, Vault, plain_words};

const SUBJECTS: usize = 40;

fn filled() -> Vault {
    let vault = Vault::configured();
    let running = vault.start();
    let item =
        |n: usize| json!({ "subject": format!("s{n}"), "fields": { "name": format!("n{n}"), "phone": phone(n) } });
    let items: Vec<_> = (0..SUBJECTS).map(item).collect();
    let answer = running.admin.post("/v1/batch/write", &json!({ "items": items })).expect(200).json();
    assert!(answer["results"].as_array().unwrap().iter().all(|result| result["status"] == 201), "{answer}");
    running.stop();
    vault
}

fn phone(number: usize) -> String {
    format!("+9715012{number:05}")
}

/// How many of the subjects are read right; the others must be told to be damaged.
fn readable(vault: &Vault) -> usize {
    let running = vault.start();
    let mut right = 0;
    for number in 0..SUBJECTS {
        let read = running.admin.field(&format!("s{number}"), "name");
        if read.status == 200 {
            assert_eq!(read.json()["value"], format!("n{number}"));
            right += 1;
        } else {
            read.problem(500, "damaged");
        }
        let found = running.admin.post("/v1/lookups", &json!({ "field": "phone", "value": phone(number) }));
        if found.status == 200 {
            assert_eq!(found.json()["subjects"], json!([format!("s{number}")]));
        } else {
            found.problem(500, "damaged");
        }
    }
    plain_words(&running.stop());
    right
}

/// A verification that finds damage and lists it, or says in plain words why it cannot even begin.
fn finds(vault: &Vault) -> Finished {
    let found = vault.verify().expect(8);
    plain_words(&format!("{}{}", found.out, found.err));
    assert!(found.err.trim().len() > 20, "{}", found.err);
    found
}

fn flipped((key, value): &Row, bit: usize) -> Row {
    let mut value = value.clone();
    let at = bit / 8 % value.len();
    value[at] ^= 1 << (bit % 8);
    (key.clone(), value)
}

#[test]
fn data_rows_with_a_flipped_bit_are_listed_and_refused() {
    let vault = filled();
    let rows = Rows::open(&vault);
    let data = rows.of(b'd');
    assert_eq!(data.len() % SUBJECTS, 0, "each subject has as many rows");
    // Ever farther into the row: its head, its manifest, its fields.
    let chosen: Vec<_> = data.iter().step_by(4).collect();
    rows.put(chosen.iter().enumerate().map(|(n, row)| flipped(row, n * 37 * 8 + n)).collect());
    rows.close();
    let listed = finds(&vault).out;
    assert!(listed.lines().count() >= chosen.len(), "{listed}");
    assert!(listed.lines().all(|line| !line.contains("s1") || !line.contains("+971")), "{listed}");
    let right = readable(&vault);
    assert!(right < SUBJECTS && right >= SUBJECTS - chosen.len(), "{right} of {SUBJECTS}");

    let rows = Rows::open(&vault);
    rows.put(data);
    rows.close();
    vault.verify().expect(0);
    assert_eq!(readable(&vault), SUBJECTS);
}

#[test]
fn data_rows_that_are_gone_or_swapped_are_listed_and_refused() {
    let vault = filled();
    let rows = Rows::open(&vault);
    let data = rows.of(b'd');
    let swapped = vec![(data[0].0.clone(), data[1].1.clone()), (data[1].0.clone(), data[0].1.clone())];
    rows.put(swapped);
    rows.delete(vec![data[2].0.clone()]);
    rows.close();
    assert!(finds(&vault).out.lines().count() >= 3);
    assert!((SUBJECTS - 3..SUBJECTS).contains(&readable(&vault)));
}

#[test]
fn pages_with_a_flipped_bit_are_found_wherever_they_are() {
    let vault = filled();
    let pages = {
        let rows = Rows::open(&vault);
        let pages = rows.of(b'p');
        rows.close();
        pages
    };
    assert!(pages.len() > 10, "{} pages", pages.len());
    let mut not_started = 0;
    for (number, page) in pages.iter().enumerate().step_by(pages.len().div_ceil(12)) {
        let change = |row: Row| {
            let rows = Rows::open(&vault);
            rows.put(vec![row]);
            rows.close();
        };
        change(flipped(page, number * 8 * 101 + number));
        finds(&vault);
        match vault.try_start() {
            Ok(running) => {
                plain_words(&running.stop());
                assert!(readable(&vault) <= SUBJECTS);
            }
            Err(refusal) => {
                refusal.says("damaged");
                not_started += 1;
            }
        }
        change(page.clone());
        vault.verify().expect(0);
    }
    eprintln!("of the damaged pages {not_started} kept the vault from starting");
    assert_eq!(readable(&vault), SUBJECTS);
}

#[test]
fn the_header_and_the_meta_record_are_needed_whole() {
    let vault = filled();
    let open = || Rows::open(&vault);
    let rows = open();
    let (pages, meta) = (rows.of(b'p'), rows.of(b'm'));
    rows.delete(pages.iter().map(|(key, _)| key.clone()).collect());
    rows.close();
    vault.refusal().says("header");
    finds(&vault);

    let rows = open();
    rows.put(pages);
    rows.put(vec![flipped(&meta[0], meta[0].1.len() * 8 - 3)]);
    rows.close();
    vault.refusal().says("META");
    finds(&vault);

    let rows = open();
    rows.delete(vec![meta[0].0.clone()]);
    rows.close();
    vault.refusal().says("META");

    let rows = open();
    rows.put(meta);
    rows.close();
    assert_eq!(readable(&vault), SUBJECTS);
    assert!(Path::new(&vault.data().join("root.slot")).exists());
}
