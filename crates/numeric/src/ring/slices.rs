//! In-place and fused operations on slices of ring elements, modulo 2^64. Where one slice is
//! longer, what it has beyond the other stays as it is.

/// `left += right`, element by element.
#[inline]
pub fn add_to(left: &mut [u64], right: &[u64]) {
    let pairs = left.iter_mut().zip(right);
    pairs.for_each(|(l, r)| *l = l.wrapping_add(*r));
}

/// `left -= right`, element by element.
#[inline]
pub fn subtract_from(left: &mut [u64], right: &[u64]) {
    let pairs = left.iter_mut().zip(right);
    pairs.for_each(|(l, r)| *l = l.wrapping_sub(*r));
}

/// `left += factor · right`, element by element.
#[inline]
pub fn add_scaled_to(left: &mut [u64], factor: u64, right: &[u64]) {
    let pairs = left.iter_mut().zip(right);
    pairs.for_each(|(l, r)| *l = l.wrapping_add(factor.wrapping_mul(*r)));
}

/// `values = -values`, element by element.
#[inline]
pub fn negate(values: &mut [u64]) {
    values.iter_mut().for_each(|v| *v = v.wrapping_neg());
}

/// `-values`, element by element.
#[inline]
#[must_use]
pub fn negated(values: &[u64]) -> Vec<u64> {
    values.iter().map(|v| v.wrapping_neg()).collect()
}

/// The sum of all elements.
#[inline]
#[must_use]
pub fn sum(values: &[u64]) -> u64 {
    values.iter().fold(0, |sum: u64, v| sum.wrapping_add(*v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_wrap_and_leave_what_is_beyond() {
        let mut values = vec![u64::MAX, 1, 7];
        add_to(&mut values, &[2, 3]);
        assert_eq!(values, [1, 4, 7]);
        subtract_from(&mut values, &[2, 3]);
        assert_eq!(values, [u64::MAX, 1, 7]);
        add_scaled_to(&mut values, u64::MAX, &[1, 2, 3]);
        assert_eq!(values, [u64::MAX - 1, u64::MAX, 4]);
        assert_eq!(sum(&values), 1);
        assert_eq!(negated(&values), [2, 1, 4u64.wrapping_neg()]);
        negate(&mut values);
        assert_eq!(values, [2, 1, 4u64.wrapping_neg()]);
    }
}
