"""What a trainer decides by itself, without touching anything: pure."""
