"""Find the smallest ratio that stays within a stated loss on the user's own videos."""
