"""What people look at: `plots` draws plain results, `report` is the page of a run, `answers` what commands say."""
