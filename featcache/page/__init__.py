"""The report page: what a run or a study is, summarised as plain values and rendered as one HTML file."""
