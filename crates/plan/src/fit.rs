//! Prices of amounts from measured times: least squares of relative errors, no price below zero.

use crate::work::AMOUNTS;

type Row = [f64; AMOUNTS];

/// The prices under which the amounts come nearest to the seconds, each deviation taken relative to
/// its seconds. `None` where nothing was measured.
///
/// With four amounts there are sixteen choices of which prices are zero. The best fit without a
/// negative price is among their unconstrained ones (Lawson and Hanson, Solving Least Squares
/// Problems, chapter 23), so all of them are tried.
#[must_use]
pub fn prices(measured: &[(Row, f64)]) -> Option<Row> {
    let rows: Vec<Row> = measured
        .iter()
        .map(|(amounts, seconds)| amounts.map(|amount| amount / seconds))
        .collect();
    let mut best: Option<(f64, Row)> = None;
    for subset in 1u32..1 << AMOUNTS {
        let used: Vec<usize> = (0..AMOUNTS).filter(|k| subset >> k & 1 == 1).collect();
        let Some(found) = least_squares(&rows, &used) else {
            continue;
        };
        if found.iter().any(|price| *price < 0.0) {
            continue;
        }
        let error = |row: &Row| (dot(row, &found) - 1.0).powi(2);
        let error: f64 = rows.iter().map(error).sum();
        if best.is_none_or(|(least, _)| error < least) {
            best = Some((error, found));
        }
    }
    best.map(|(_, found)| found)
}

pub(crate) fn dot(a: &Row, b: &Row) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves `rows · prices = 1` for the used prices by normal equations; `None` where the rows do not
/// tell the amounts apart.
fn least_squares(rows: &[Row], used: &[usize]) -> Option<Row> {
    if rows.len() < used.len() {
        return None;
    }
    // Columns of length one, so that what is singular is so in any unit.
    let length = |&k: &usize| rows.iter().map(|row| row[k] * row[k]).sum::<f64>().sqrt();
    let scale: Vec<f64> = used.iter().map(length).collect();
    if scale.contains(&0.0) {
        return None;
    }
    let n = used.len();
    let entry = |row: &Row, i: usize| row[used[i]] / scale[i];
    let mut system = vec![vec![0.0; n + 1]; n];
    for row in rows {
        for i in 0..n {
            for j in 0..n {
                system[i][j] += entry(row, i) * entry(row, j);
            }
            system[i][n] += entry(row, i);
        }
    }
    let solved = eliminate(system)?;
    let mut prices = [0.0; AMOUNTS];
    for (i, value) in solved.into_iter().enumerate() {
        prices[used[i]] = value / scale[i];
    }
    Some(prices)
}

/// Gauss's elimination with pivots.
fn eliminate(mut system: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    /// Of a matrix whose diagonal is one: below it two columns are the same but for rounding.
    const SINGULAR: f64 = 1e-9;
    let n = system.len();
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|&a, &b| system[a][column].abs().total_cmp(&system[b][column].abs()))?;
        if system[pivot][column].abs() < SINGULAR {
            return None;
        }
        system.swap(column, pivot);
        for row in 0..n {
            if row == column {
                continue;
            }
            let factor = system[row][column] / system[column][column];
            for k in column..=n {
                system[row][k] -= factor * system[column][k];
            }
        }
    }
    Some(
        (0..n)
            .map(|row| system[row][n] / system[row][row])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_that_made_the_times_are_found() {
        let made = [2e-4, 3e-10, 0.0, 5e-9];
        let rows = [
            [70.0, 3e6, 0.0, 1e6],
            [210.0, 40e6, 0.0, 3e6],
            [300.0, 12e6, 0.0, 9e6],
            [600.0, 30e6, 2e6, 6e6],
        ];
        let measured = rows.map(|row| (row, dot(&row, &made)));
        let found = prices(&measured).unwrap();
        for (a, b) in found.iter().zip(made) {
            // Exact but for rounding in a system of four.
            assert!((a - b).abs() <= 1e-6 * made[0], "{found:?}");
        }
    }

    #[test]
    fn no_price_is_below_zero() {
        // The second amount grows while the time falls.
        let measured = [
            ([1.0, 1.0, 0.0, 0.0], 3.0),
            ([1.0, 2.0, 0.0, 0.0], 2.0),
            ([1.0, 3.0, 0.0, 0.0], 1.5),
        ];
        let found = prices(&measured).unwrap();
        assert!(found.iter().all(|price| *price >= 0.0), "{found:?}");
        assert_eq!(found[1], 0.0);
        assert!(prices(&[]).is_none());
    }
}
