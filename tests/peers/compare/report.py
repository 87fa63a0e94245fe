def write(options):
    pass
