//! Pairwise choice: few rows of a product that still meet every pair of values.
//!
//! Most faults need two settings at once (eight CPUs *and* GICv2), few need three. So instead of every row of the
//! full product, a greedy cover of all pairs that occur in it is run: an order of magnitude fewer boots.

use std::cmp::Reverse;
use std::collections::HashSet;

/// One pair: factor and value, twice, the lower factor first.
type Pair = (usize, usize, usize, usize);

/// Picks indices of `rows` such that every pair of values that occurs in some row occurs in a picked one.
///
/// A row holds one value per factor. Rows that may not be (a combination that means nothing) are simply not given.
/// The same rows always yield the same choice.
pub(crate) fn choose(rows: &[Vec<usize>]) -> Vec<usize> {
    let mut missing: HashSet<Pair> = rows.iter().flat_map(|row| pairs(row)).collect();
    let mut chosen: Vec<usize> = Vec::new();
    while !missing.is_empty() {
        let gain = |row: &[usize]| pairs(row).filter(|pair| missing.contains(pair)).count();
        // Of rows with the same gain the one least like those chosen: else one value would fill every free place.
        let likeness = |row: &[usize]| -> usize {
            let same = |other: &usize| rows[*other].iter().zip(row).filter(|(a, b)| a == b).count();
            chosen.iter().map(same).sum()
        };
        // One exists while a pair is missing, since each came from some row.
        let key = |&index: &usize| (gain(&rows[index]), Reverse(likeness(&rows[index])));
        let Some(best) = (0..rows.len()).max_by_key(key) else { break };
        pairs(&rows[best]).for_each(|pair| {
            missing.remove(&pair);
        });
        chosen.push(best);
    }
    chosen.sort_unstable();
    chosen
}

fn pairs(row: &[usize]) -> impl Iterator<Item = Pair> {
    (0..row.len()).flat_map(move |low| (low + 1..row.len()).map(move |high| (low, row[low], high, row[high])))
}

/// Every row of the product of factors with that many values each, the last factor turning fastest.
pub(crate) fn product(levels: &[usize]) -> Vec<Vec<usize>> {
    levels.iter().fold(vec![Vec::new()], |rows, &level| {
        let extend = |row: Vec<usize>| {
            (0..level).map(move |value| {
                let mut longer = row.clone();
                longer.push(value);
                longer
            })
        };
        rows.into_iter().flat_map(extend).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(rows: &[Vec<usize>], picked: &[usize], pair: Pair) -> bool {
        picked.iter().any(|&i| rows[i][pair.0] == pair.1 && rows[i][pair.2] == pair.3)
    }

    #[test]
    fn every_pair_of_the_boot_matrix_is_met_by_few_rows() {
        let levels = [4, 2, 3, 2, 2];
        let rows = product(&levels);
        assert_eq!(rows.len(), 96);
        let picked = choose(&rows);
        for low in 0..levels.len() {
            for high in low + 1..levels.len() {
                for a in 0..levels[low] {
                    for b in 0..levels[high] {
                        assert!(covered(&rows, &picked, (low, a, high, b)), "{low}={a} with {high}={b}");
                    }
                }
            }
        }
        // 4 × 3 is the floor; the greedy choice may lie a little above it.
        assert!((12..=16).contains(&picked.len()), "{}", picked.len());
    }

    #[test]
    fn free_places_are_shared_out() {
        let rows = product(&[6, 4, 2, 3, 2, 2]);
        let picked = choose(&rows);
        for scheme in 0..3 {
            let share = picked.iter().filter(|&&index| rows[index][3] == scheme).count();
            assert!(share * 3 >= picked.len() - 6, "{share} of {}", picked.len());
        }
    }

    #[test]
    fn rows_left_out_are_never_chosen_and_cost_no_other_pair() {
        let allowed: Vec<_> = product(&[3, 3, 2]).into_iter().filter(|r| !(r[0] == 2 && r[1] == 0)).collect();
        let picked = choose(&allowed);
        assert!(covered(&allowed, &picked, (0, 2, 1, 1)));
        assert!(covered(&allowed, &picked, (1, 0, 2, 1)));
        assert!(!covered(&allowed, &picked, (0, 2, 1, 0)));
    }

    #[test]
    fn the_choice_is_stable_and_small_cases_hold() {
        let rows = product(&[2, 2]);
        assert_eq!(choose(&rows), vec![0, 1, 2, 3], "two factors leave nothing to save");
        assert_eq!(choose(&product(&[4, 3, 2])), choose(&product(&[4, 3, 2])));
        assert_eq!(choose(&[]), Vec::<usize>::new());
    }
}
