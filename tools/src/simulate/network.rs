//! A closed queueing network by mean value analysis (Reiser and Lavenberg, 1980): who works for itself, then queues for each
//! line of memory that others want, too, and starts over.

/// How many rounds a second `customers` make together, who each take `alone` seconds without queueing and then use every
/// station for so many seconds, one customer at a time.
pub(super) fn throughput(customers: u32, alone: f64, stations: &[f64]) -> f64 {
    let mut queues = vec![0.0; stations.len()];
    let mut rounds = 0.0;
    for present in 1..=customers {
        // Who arrives finds the queue that one customer fewer leaves on average.
        let stays: Vec<f64> = stations.iter().zip(&queues).map(|(use_, queue)| use_ * (1.0 + queue)).collect();
        rounds = f64::from(present) / (alone + stays.iter().sum::<f64>());
        queues = stays.iter().map(|stay| rounds * stay).collect();
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, wanted: f64) {
        assert!((found / wanted - 1.0).abs() < 1e-9, "{found}, should be {wanted}");
    }

    #[test]
    fn one_customer_never_waits() {
        close(throughput(1, 3.0, &[1.0, 0.5]), 1.0 / 4.5);
    }

    #[test]
    fn without_stations_customers_do_not_meet() {
        close(throughput(768, 6.5e-6, &[]), 768.0 / 6.5e-6);
    }

    #[test]
    fn the_slowest_station_bounds_many() {
        close(throughput(2000, 10.0, &[1.0, 0.25]), 1.0);
    }

    #[test]
    fn equal_stations_without_other_work_have_a_closed_form() {
        // N customers at K stations of demand D: N / (D (N + K - 1)).
        close(throughput(7, 0.0, &[2.0; 3]), 7.0 / (2.0 * 9.0));
    }

    #[test]
    fn two_at_a_station_as_the_machine_repairman_has_it() {
        // Two machines that run for Z, one repairman who takes S, both exponential: the states are 2, 1, 0 running.
        let (run, repair) = (4.0, 1.0_f64);
        let weights = [1.0, 2.0 * repair / run, 2.0 * (repair / run).powi(2)];
        let busy = 1.0 - weights[0] / weights.iter().sum::<f64>();
        close(throughput(2, run, &[repair]), busy / repair);
    }
}
