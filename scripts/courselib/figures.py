def verb(options):
    return 0
