"""What people read: the report of an export."""
