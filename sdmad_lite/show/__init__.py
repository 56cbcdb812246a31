"""What people look at: plots, panels, the report, the course, the dashboard."""
