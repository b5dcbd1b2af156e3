"""What every served call goes through, one file per concern."""
