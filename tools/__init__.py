"""Post-processing of collected datasets: filters, schedules and runners, built in and of the users' own."""
